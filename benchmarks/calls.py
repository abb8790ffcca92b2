"""What calls with callbacks cost: against calls without, and against a list of callbacks that all calls share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final
from uuid import uuid4

import attrs

from benchmarks._harness import Size, TaskFinished, Timed, emitting, handler, interleaved, per_call, stamped_chunk
from benchmarks._table import Row, main
from crewbus import Bus, Envelope, Stream

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


class Shared:
    """Callbacks in one list, as frameworks have them: a chunk passes all of them, under the lock, and each looks whose
    it is. The lock is not held while the call waits for its model: where it is, calls run one after the other.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.callbacks: list[Callable[[str, Envelope], None]] = []

    def chunk(self, call: str, seq: int) -> None:
        envelope = stamped_chunk(seq, call)
        with self.lock:
            for callback in self.callbacks:
                callback(call, envelope)

    def call(self) -> None:
        counter, mine = Counter(), uuid4().hex

        def callback(call: str, envelope: Envelope) -> None:
            if call == mine:
                counter(envelope)

        with self.lock:
            self.callbacks.append(callback)
        for seq in range(CHUNKS):
            time.sleep(SECONDS / CHUNKS)
            self.chunk(mine, seq)
        with self.lock:
            self.callbacks.remove(callback)
        assert counter.count == CHUNKS


@attrs.frozen
class Took:
    """Nanoseconds."""

    wall: float
    cpu: float


def in_threads(bus: Bus, call: Callable[[], None], calls: int) -> Callable[[], Took]:
    def work(barrier: threading.Barrier) -> None:
        with bus.run():
            barrier.wait()
            for _ in range(calls):
                call()
            barrier.wait()

    def timed() -> Took:
        barrier = threading.Barrier(THREADS + 1)
        threads = [threading.Thread(target=work, args=(barrier,)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        barrier.wait()
        start, spent = time.perf_counter_ns(), time.process_time_ns()
        barrier.wait()
        took = Took(time.perf_counter_ns() - start, time.process_time_ns() - spent)
        for thread in threads:
            thread.join()
        return took

    return timed


def calls(size: Size) -> Iterator[Row]:
    count, repeat = size.n(10, 1), size.repeat(9)
    shared = Shared()
    with Bus(entry_points=False) as bus:
        candidates = {
            "with": in_threads(bus, partial(with_callbacks, bus), count),
            "without": in_threads(bus, partial(on_the_bus, bus), count),
            "shared": in_threads(bus, shared.call, count),
            "alone": in_threads(bus, alone, count),
        }
        took = [{name: timed() for name, timed in candidates.items()} for _ in range(repeat)]
    wall = {name: min(each[name].wall for each in took) / 1000 for name in candidates}
    chunks = THREADS * count * CHUNKS
    cpu = {name: min(each[name].cpu for each in took) / chunks for name in candidates}
    what = f"{count} calls of 20 ms with callbacks in each of {THREADS} threads"
    yield Row(f"{what} / without", wall["with"], wall["without"], 1.02, "µs")
    yield Row("  / the calls alone, nothing emitted", wall["with"], wall["alone"], unit="µs")
    yield Row("  / one list of callbacks and a lock", wall["with"], wall["shared"], unit="µs")
    yield Row("  CPU per chunk / without", cpu["with"], cpu["without"])
    yield Row("  CPU per chunk / the calls alone, nothing emitted", cpu["with"], cpu["alone"])
    yield Row("  CPU per chunk / one list of callbacks and a lock", cpu["with"], cpu["shared"])


def emission(size: Size) -> Iterator[Row]:
    n, repeat = size.n(5000), size.repeat(40)
    with Bus(entry_points=False) as bus, Bus(entry_points=False) as other:
        bus.on(TaskFinished, handler)
        with bus.run(), other.run(), other.call("gpt", callbacks=[handler]):
            took = interleaved({"run": per_call(emitting(bus), n), "call": per_call(emitting(other), n)}, repeat)
    yield Row("  emit to 1 callback, in a call / to 1 handler, in a run", took["call"], took["run"])


def streaming(bus: Bus, stream: Stream, n: int, scope: Callable[[], AbstractContextManager[object]]) -> Timed:
    """The nanoseconds of a chunk that is emitted in a scope of a run with a stream; taking it is not counted."""

    def timed() -> float:
        with scope():
            start = time.perf_counter_ns()
            for _ in range(n):
                bus.chunk("Hello")
            took = time.perf_counter_ns() - start
        while stream.source.take(time.monotonic()):
            pass
        return took / n

    return timed


def streamed(size: Size) -> Iterator[Row]:
    """What agents emit most: chunks of a call, in a run with a stream."""
    n, repeat = size.n(2000), size.repeat(60)
    with Bus(entry_points=False) as bus, bus.run() as run, bus.subscribe(run.id, bound=4 * n) as stream:
        emitting_in = partial(streaming, bus, stream, n)
        took = interleaved(
            {
                "run": emitting_in(nullcontext),
                "call": emitting_in(lambda: bus.call("gpt", callbacks=[handler])),
                "attempt": emitting_in(run.attempt),
            },
            repeat,
        )
    yield Row("a chunk in a call with one callback, streamed / without the call", took["call"], took["run"], 1.6)
    yield Row("a chunk in an attempt, streamed / without the attempt", took["attempt"], took["run"], 1.4)


def rows(size: Size) -> Iterator[Row]:
    yield from calls(size)
    yield from emission(size)
    yield from streamed(size)


if __name__ == "__main__":
    main(rows)
