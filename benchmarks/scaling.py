"""How costs grow in memory: emitting with handlers and with plugins, streaming with concurrent runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import blinker

import crewbus
from benchmarks._harness import Size, TaskFinished, emitting, interleaved, per_call, stamped
from benchmarks._table import Curve, Line, Row, main
from benchmarks._together import concurrent
from benchmarks.emit import with_pluggy
from benchmarks.stream import frames, from_queue
from crewbus import Bus, Envelope

HANDLERS: Final = (0, 1, 5, 50)
PLUGINS: Final = (0, 1, 2, 5, 10, 20)
RUNS: Final = (1, 10, 100, 1000)
QUEUES: Final = "asyncio.Queue each"
FLAT: Final = 1.1
"""What passes for flat: a tenth is within what two runs of this differ by."""

Loop = Callable[[int], object]
"""Emits so many events."""
Series = dict[str, list[tuple[float, float]]]
Maker = Callable[[int], Loop]
"""Prepares that for so many listeners."""


def listeners(count: int) -> list[Callable[[Envelope], None]]:
    """As many different functions, since a bus takes each once."""

    def another() -> Callable[[Envelope], None]:
        def listener(envelope: Envelope) -> None:
            pass

        return listener

    return [another() for _ in range(count)]


# What it is compared with: the same event, stamped, given to as many functions.


def plain_loop(count: int) -> Loop:
    functions = listeners(count)

    def loop(n: int) -> None:
        for seq in range(n):
            envelope = stamped(seq)
            for function in functions:
                function(envelope)

    return loop


def blinker_signal(count: int) -> Loop:
    signal = blinker.Signal()

    def connect() -> None:
        def receiver(sender: object, envelope: Envelope) -> None:
            pass

        signal.connect(receiver, weak=False)

    for _ in range(count):
        connect()

    def loop(n: int) -> None:
        send = signal.send
        for seq in range(n):
            send("agent", envelope=stamped(seq))

    return loop


# Ours


class Observer:
    @crewbus.hookimpl
    def crewbus_emit(self, envelope: Envelope) -> None:
        pass


class Bystander:
    """Implements only what no emission calls."""

    @crewbus.hookimpl
    def crewbus_run_finish(self) -> None:
        pass

    @crewbus.hookimpl
    def crewbus_close(self) -> None:
        pass


def in_a_run(bus: Bus) -> Loop:
    emit = emitting(bus)

    def loop(n: int) -> None:
        with bus.run():
            emit(n)

    return loop


def with_handlers(stack: ExitStack, count: int) -> Loop:
    bus = stack.enter_context(Bus(entry_points=False))
    for function in listeners(count):
        bus.on(TaskFinished, function)
    return in_a_run(bus)


def with_plugins(stack: ExitStack, plugin: Callable[[], Any], count: int) -> Loop:
    plugins = [(f"plugin {number}", plugin()) for number in range(count)]
    return in_a_run(stack.enter_context(Bus(plugins, entry_points=False, strict=True)))


def series_of(makers: Mapping[str, Maker], at: tuple[int, ...], size: Size) -> Series:
    """The nanoseconds per emission of each of ``makers`` at each count: all points take turns."""
    n = size.n(5000)
    points = [(name, count) for name in makers for count in at]
    candidates = {str(point): per_call(makers[point[0]](point[1]), n) for point in points}
    least = interleaved(candidates, size.repeat(25))
    return {name: [(count, least[str((name, count))]) for count in at] for name in makers}


def handlers(size: Size) -> Iterator[Line]:
    with ExitStack() as stack:
        makers: dict[str, Maker] = {
            "ours": partial(with_handlers, stack),
            "plain loop": plain_loop,
            "blinker": blinker_signal,
            "pluggy": with_pluggy,
        }
        yield Curve("emit in a run, by handlers", "handlers", series_of(makers, size.steps(HANDLERS), size))


def plugins(size: Size) -> Iterator[Line]:
    with ExitStack() as stack:
        makers: dict[str, Maker] = {
            "ours": partial(with_plugins, stack, Observer),
            "ours, plugins that observe nothing": partial(with_plugins, stack, Bystander),
            "plain loop": plain_loop,
            "pluggy": with_pluggy,
        }
        at = size.steps(PLUGINS)
        series = series_of(makers, at, size)
    yield Curve("emit in a run, by plugins that observe it", "plugins", series)
    (_, without), *_, (_, most) = series["ours, plugins that observe nothing"]
    yield Row(f"  with {at[-1]} plugins that observe nothing / without", most, without, FLAT)


def runs(size: Size) -> Iterator[Line]:
    at = size.steps(RUNS)
    with Bus(entry_points=False) as bus:
        candidates = {}
        for count in at:
            chunks = size.n(min(max(20_000 // count, 100), 100_000 // count), 2)
            candidates[f"ours {count}"] = concurrent(frames(bus), count, chunks, 1)
            candidates[f"{QUEUES} {count}"] = concurrent(from_queue, count, chunks, 1)
        least = interleaved(candidates, size.repeat(5))
    series: Series = {who: [(count, least[f"{who} {count}"]) for count in at] for who in ("ours", QUEUES)}
    yield Curve("stream, asyncio to asyncio, one by one, by concurrent runs", "runs", series)
    if not size.quick:
        yield Row("  flat: 1,000 runs / 10 runs", least["ours 1000"], least["ours 10"], FLAT)
        yield Row(f"  the same, {QUEUES}", least[f"{QUEUES} 1000"], least[f"{QUEUES} 10"])


def rows(size: Size) -> Iterator[Line]:
    yield from handlers(size)
    yield from plugins(size)
    yield from runs(size)


if __name__ == "__main__":
    main(rows)
