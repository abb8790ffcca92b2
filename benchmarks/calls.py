"""What calls with callbacks cost: against the calls alone, and an emission in a call against one in a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from benchmarks._harness import Row, Size, TaskFinished, emitting, handler, interleaved, main, per_call
from crewbus import Bus, Envelope

THREADS: Final = 32
CHUNKS: Final = 10
SECONDS: Final = 0.02
"""How long a call takes, as of a model behind a network."""


class Counter:
    """A callback; all are of this class, as a framework's are."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _: Envelope) -> None:
        self.count += 1


def alone() -> None:
    for _ in range(CHUNKS):
        time.sleep(SECONDS / CHUNKS)


def on_the_bus(bus: Bus, *callbacks: Counter) -> None:
    with bus.call("gpt", callbacks=callbacks):
        for _ in range(CHUNKS):
            time.sleep(SECONDS / CHUNKS)
            bus.chunk("Hello")


def with_callbacks(bus: Bus) -> None:
    counter = Counter()
    on_the_bus(bus, counter)
    assert counter.count == CHUNKS + 2


def in_threads(bus: Bus, call: Callable[[], None], calls: int) -> Callable[[], float]:
    def work(barrier: threading.Barrier) -> None:
        with bus.run():
            barrier.wait()
            for _ in range(calls):
                call()
            barrier.wait()

    def timed() -> float:
        barrier = threading.Barrier(THREADS + 1)
        threads = [threading.Thread(target=work, args=(barrier,)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        barrier.wait()
        start = time.perf_counter_ns()
        barrier.wait()
        took = time.perf_counter_ns() - start
        for thread in threads:
            thread.join()
        return took

    return timed


def calls(size: Size) -> Iterator[Row]:
    count, repeat = size.n(10, 1), size.repeat(5)
    with Bus(entry_points=False) as bus:
        took = interleaved(
            {
                "with": in_threads(bus, partial(with_callbacks, bus), count),
                "without": in_threads(bus, partial(on_the_bus, bus), count),
                "alone": in_threads(bus, alone, count),
            },
            repeat,
        )
    what = f"{count} calls of 20 ms with callbacks in each of {THREADS} threads"
    yield Row(f"{what} / without", took["with"] / 1000, took["without"] / 1000, 1.02, "µs")
    yield Row("  / the calls alone, nothing emitted", took["with"] / 1000, took["alone"] / 1000, unit="µs")


def emission(size: Size) -> Iterator[Row]:
    n, repeat = size.n(5000), size.repeat(40)
    with Bus(entry_points=False) as bus, Bus(entry_points=False) as other:
        bus.on(TaskFinished, handler)
        with bus.run(), other.run(), other.call("gpt", callbacks=[handler]):
            took = interleaved({"run": per_call(emitting(bus), n), "call": per_call(emitting(other), n)}, repeat)
    yield Row("  emit to 1 callback, in a call / to 1 handler, in a run", took["call"], took["run"])


def rows(size: Size) -> Iterator[Row]:
    yield from calls(size)
    yield from emission(size)


if __name__ == "__main__":
    main(rows)
