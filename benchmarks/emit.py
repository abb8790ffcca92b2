"""What an emission costs: against buses, hooks and callbacks of others, a plain loop, and building the event."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Final

import blinker
import cattrs.preconf.json
import pluggy
import pyee

from benchmarks._harness import (
    Size,
    TaskFinished,
    Timed,
    emitting,
    handler,
    installed,
    interleaved,
    per_call,
    stamped,
)
from benchmarks._table import Row, main
from crewbus import Bus, Chunk, Envelope, Run

CREWAI: Final = "crewAI, in a flow"


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


_spec = pluggy.HookspecMarker("benchmarks")
_impl = pluggy.HookimplMarker("benchmarks")


class Hooks:
    @_spec
    def finished(self, envelope: Envelope) -> None:
        """The one hook."""


class Plugin:
    @_impl
    def finished(self, envelope: Envelope) -> None:
        pass


def with_pluggy(plugins: int) -> Callable[[int], None]:
    manager = pluggy.PluginManager("benchmarks")
    manager.add_hookspecs(Hooks)
    for _ in range(plugins):
        manager.register(Plugin())

    def loop(n: int) -> None:
        finished = manager.hook.finished
        for seq in range(n):
            finished(envelope=stamped(seq))

    return loop


def directly(n: int) -> None:
    for seq in range(n):
        handler(stamped(seq))


# Frameworks stamp their events themselves, in their own way; each emits within what it calls a run.


def frameworks(handlers: int, n: int) -> Iterator[tuple[str, Timed]]:
    if installed("llama_index_instrumentation"):
        from benchmarks import _peer_emit_llamaindex

        yield "LlamaIndex instrumentation, in a span", _peer_emit_llamaindex.events(handlers, n)
    if installed("langchain_core"):
        from benchmarks import _peer_emit_langchain

        yield "langchain-core, dispatch_custom_event in a runnable", _peer_emit_langchain.events(handlers, n)
    if installed("crewai"):
        from benchmarks import _peer_crewai

        yield CREWAI, _peer_crewai.events(handlers, n)


def chunks(handlers: int, n: int) -> Iterator[tuple[str, Timed]]:
    if installed("langchain_core"):
        from benchmarks import _peer_emit_langchain

        yield "langchain-core, on_llm_new_token", _peer_emit_langchain.chunks(handlers, n)
    if installed("crewai"):
        from benchmarks import _peer_crewai

        yield "crewAI, LLMStreamChunkEvent in a flow", _peer_crewai.chunks(handlers, n)


def chunking(bus: Bus) -> Callable[[int], None]:
    def loop(n: int) -> None:
        chunk = bus.chunk
        for _ in range(n):
            chunk("Hello")

    return loop


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
                "pluggy": per_call(with_pluggy(1), n),
                "direct": per_call(directly, n),
            },
            repeat,
        )
    yield Row("emit to 1 handler, in a run / blinker", free["ours"], free["blinker"], 0.45)
    yield Row("  / blinker, event only", free["ours"], free["blinker bare"])
    yield Row("emit to 1 handler, in a run / pyee", free["ours"], free["pyee"], 0.75)
    yield Row("  / pyee, event only", free["ours"], free["pyee bare"])
    yield Row("  / a pluggy hook", free["ours"], free["pluggy"])
    yield Row("  / a direct call", free["ours"], free["direct"])


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
        candidates = {
            "ours": per_call(emitting(bus), n),
            "plain": per_call(plain, n),
            "bare": per_call(bare, n),
            "pluggy": per_call(with_pluggy(50), n),
        }
        least = interleaved(candidates, repeat)
    yield Row("emit to 50 handlers, in a run / a plain loop", least["ours"], least["plain"], 1.5)
    yield Row("  / a plain loop, event only", least["ours"], least["bare"])
    yield Row("  / a pluggy hook of 50 plugins", least["ours"], least["pluggy"])


def among_frameworks(size: Size) -> Iterator[Row]:
    """Last of all, since what these import and start stays in the process."""
    for handlers, n in ((1, size.n(500)), (50, size.n(100))):
        to = f"to {handlers} handler{'s' * (handlers > 1)}, in a run"
        with Bus(entry_points=False) as bus, bus.run():
            for _ in range(handlers):
                bus.on(TaskFinished, lambda _: None)
                bus.on(Chunk, lambda _: None)
            events, texts = dict(frameworks(handlers, n)), dict(chunks(handlers, n))
            emitted = interleaved({"ours": per_call(emitting(bus), n), **events}, size.repeat(15))
            streamed = interleaved({"ours": per_call(chunking(bus), n), **texts}, size.repeat(15))
        for peer in events:
            budget = 1 / 20 if peer == CREWAI and handlers == 1 else None
            yield Row(f"emit {to} / {peer}", emitted["ours"], emitted[peer], budget)
        for peer in texts:
            yield Row(f"a chunk {to} / {peer}", streamed["ours"], streamed[peer])


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
            emit, encode = bus.emit, bus.recording.encode
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
    for part in (one_handler, with_stream, many_handlers, nobody, armed, among_frameworks):
        yield from part(size)


if __name__ == "__main__":
    main(rows)
