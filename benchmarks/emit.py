"""What an emission costs: against blinker, pyee, a plain loop, and building the event."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import blinker
import cattrs.preconf.json
import pyee

from benchmarks._harness import Row, Size, TaskFinished, emitting, handler, interleaved, main, per_call, stamped
from crewbus import Bus, Run


def receiver(sender: object, envelope: object) -> None:
    pass


# A peer builds the event and the envelope, since that is what its receiver gets to see; the rows
# that say "event only" spare it the envelope.


def with_blinker(n: int) -> None:
    send = _signal.send
    for seq in range(n):
        send("agent", envelope=stamped(seq))


def with_blinker_bare(n: int) -> None:
    send = _signal.send
    for _ in range(n):
        send("agent", envelope=TaskFinished("research", "done"))


def with_pyee(n: int) -> None:
    emit = _emitter.emit
    for seq in range(n):
        emit("finished", stamped(seq))


def with_pyee_bare(n: int) -> None:
    emit = _emitter.emit
    for _ in range(n):
        emit("finished", TaskFinished("research", "done"))


_signal = blinker.Signal()
_signal.connect(receiver, weak=False)
_emitter = pyee.EventEmitter()
_emitter.on("finished", handler)


def building(n: int) -> None:
    for _ in range(n):
        TaskFinished("research", "done")


def one_handler(size: Size) -> Iterator[Row]:
    n, repeat = size.n(5000), size.repeat(40)
    with Bus(entry_points=False) as bus, bus.run():
        bus.on(TaskFinished, handler)
        ours = per_call(emitting(bus), n)
        free = interleaved(
            {
                "ours": ours,
                "blinker": per_call(with_blinker, n),
                "blinker bare": per_call(with_blinker_bare, n),
                "pyee": per_call(with_pyee, n),
                "pyee bare": per_call(with_pyee_bare, n),
            },
            repeat,
        )
    yield Row("emit to 1 handler, in a run / blinker", free["ours"], free["blinker"], 0.45)
    yield Row("  / blinker, event only", free["ours"], free["blinker bare"])
    yield Row("emit to 1 handler, in a run / pyee", free["ours"], free["pyee"], 0.75)
    yield Row("  / pyee, event only", free["ours"], free["pyee bare"])


def with_stream(size: Size) -> Iterator[Row]:
    n, repeat = size.n(5000), size.repeat(40)
    with Bus(entry_points=False) as bus, bus.run() as run, bus.subscribe(run.id):
        bus.on(TaskFinished, handler)
        candidates = {
            "ours": per_call(emitting(bus), n),
            "blinker": per_call(with_blinker, n),
            "bare": per_call(with_blinker_bare, n),
        }
        least = interleaved(candidates, repeat)
    yield Row("the same, with a stream attached / blinker", least["ours"], least["blinker"], 0.6)
    yield Row("  / blinker, event only", least["ours"], least["bare"])


def many_handlers(size: Size) -> Iterator[Row]:
    n, repeat = size.n(1000), size.repeat(30)
    functions: list[Callable[[object], None]] = [lambda _: None for _ in range(50)]

    def plain(n: int) -> None:
        for seq in range(n):
            envelope = stamped(seq)
            for function in functions:
                function(envelope)

    def bare(n: int) -> None:
        for _ in range(n):
            event = TaskFinished("research", "done")
            for function in functions:
                function(event)

    with Bus(entry_points=False) as bus, bus.run():
        for function in functions:
            bus.on(TaskFinished, function)
        candidates = {"ours": per_call(emitting(bus), n), "plain": per_call(plain, n), "bare": per_call(bare, n)}
        least = interleaved(candidates, repeat)
    yield Row("emit to 50 handlers, in a run / a plain loop", least["ours"], least["plain"], 1.5)
    yield Row("  / a plain loop, event only", least["ours"], least["bare"])


def nobody(size: Size) -> Iterator[Row]:
    n, repeat = size.n(10_000), size.repeat(40)
    with Bus(entry_points=False) as bus:
        least = interleaved({"ours": per_call(emitting(bus), n), "building": per_call(building, n)}, repeat)
    yield Row("emit, nobody listening, outside a run / building the event", least["ours"], least["building"], 1.75)


def armed(size: Size) -> Iterator[Row]:
    n, repeat = size.n(2000), size.repeat(15)
    unstructure = cattrs.preconf.json.make_converter().get_unstructure_hook(TaskFinished)
    dump = json.JSONEncoder(separators=(",", ":")).encode
    with Bus(entry_points=False) as bus:
        bus.on(TaskFinished, handler)
        loop = emitting(bus)

        def recorded(run: Run) -> None:
            with run:
                timed[0] = per_call(loop, n)()
            bus.reset_recording()

        def ours() -> float:
            recorded(bus.run(record=True))
            return timed[0]

        def encode(n: int) -> None:
            emit, encode = bus.emit, bus.encode
            for _ in range(n):
                envelope = emit(TaskFinished("research", "done"))
                assert envelope is not None
                encode(envelope)

        def dumping(n: int) -> None:
            emit = bus.emit
            for _ in range(n):
                event = TaskFinished("research", "done")
                emit(event)
                dump(unstructure(event)).encode()

        def inside(loop: Callable[[int], None]) -> Callable[[], float]:
            def timed() -> float:
                with bus.run():
                    return per_call(loop, n)()

            return timed

        timed = [0.0]
        least = interleaved({"ours": ours, "encode": inside(encode), "dump": inside(dumping)}, repeat)
    yield Row("emit to 1 handler, recording armed / emit + one encode", least["ours"], least["encode"], 1.3)
    yield Row("  / emit + only cattrs and json of the event", least["ours"], least["dump"])


def rows(size: Size) -> Iterator[Row]:
    for part in (one_handler, with_stream, many_handlers, nobody, armed):
        yield from part(size)


if __name__ == "__main__":
    main(rows)
