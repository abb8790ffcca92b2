"""Promise 9: what consumers rely on is checked where it is given, so that no consumer fails over it later."""

from __future__ import annotations

import pickle

import attrs
import pytest
from helpers import Noted, quiet_bus
from plugin_helpers import Watcher

import crewbus
from crewbus import Chunk, StreamOptions


@crewbus.event(name="tests.arguments.Token")
class Token(Chunk):
    number: int = 0


NO_TEXTS = [None, b"", b"x", 1, ["x"], Chunk("x")]


@pytest.mark.parametrize("text", NO_TEXTS)
@pytest.mark.parametrize("kind", ["Bus.chunk", "Run.chunk", "Call.chunk", "chunk", "Chunk", "subclass", "evolve"])
def test_a_chunk_without_a_text_is_refused_where_it_is_emitted(text, kind):
    watcher = Watcher()
    with quiet_bus(plugins=[watcher]) as bus:
        with bus.run(id="r") as run, bus.call("model") as call:
            emit = {
                "Bus.chunk": bus.chunk,
                "Run.chunk": run.chunk,
                "Call.chunk": call.chunk,
                "chunk": crewbus.chunk,
                "Chunk": lambda text: bus.emit(Chunk(text)),
                "subclass": lambda text: bus.emit(Token(text)),
                "evolve": lambda text: bus.emit(attrs.evolve(Chunk("x"), text=text)),
            }
            stream = bus.subscribe("r", slow="coalesce")
            bus.chunk("Hello")
            with pytest.raises(crewbus.InputError, match="a chunk's text is a str"):
                emit[kind](text)
            bus.chunk(" world")
        assert stream.text() == "Hello world"
    assert watcher.failures == []


@pytest.mark.parametrize("kind", [None, 1, b"text"])
def test_a_chunk_whose_kind_is_no_text_is_refused(kind):
    with quiet_bus() as bus, bus.run():
        for make in (lambda: bus.chunk("x", kind), lambda: Token("x", kind)):
            with pytest.raises(crewbus.InputError, match="a chunk's kind is a str"):
                make()


def test_a_chunk_takes_subclasses_of_str_and_is_an_attrs_class_as_before():
    class Text(str):
        __slots__ = ()

    chunk = Chunk(Text("x"), kind="reasoning")
    assert (chunk.text, chunk.kind) == ("x", "reasoning")
    assert chunk == Chunk("x", "reasoning")
    assert repr(chunk) == "Chunk(text='x', kind='reasoning')"
    assert pickle.loads(pickle.dumps(Chunk("x"))) == Chunk("x")
    assert attrs.asdict(Token("x", number=3)) == {"text": "x", "kind": "text", "number": 3}


# Relatives: each argument of another kind


@pytest.mark.parametrize(
    "use",
    [
        lambda bus, run: bus.emit(Noted),
        lambda bus, run: bus.emit(None),
        lambda bus, run: run.emit(Noted),
        lambda bus, run: run.attempt(1.5),
        lambda bus, run: run.attempt("2"),
        lambda bus, run: run.attempt(True),
        lambda bus, run: run.attempt(0),
        lambda bus, run: run.cancel(None),
        lambda bus, run: run.cancel(""),
        lambda bus, run: run.cancel(ValueError("why")),
        lambda bus, run: run.finish(ValueError),
        lambda bus, run: run.finish("failed"),
        lambda bus, run: bus.on(Noted, None),
        lambda bus, run: bus.on(None),
        lambda bus, run: bus.subscribe(run),
        lambda bus, run: bus.subscribe(None),
        lambda bus, run: bus.subscribe(""),
        lambda bus, run: bus.subscribe(run, after="start"),
        lambda bus, run: bus.subscribe(run.id, bound=0.5),
        lambda bus, run: bus.subscribe(run.id, bound="10"),
        lambda bus, run: bus.subscribe(run.id, bound=True),
        lambda bus, run: bus.subscribe(run.id, slow="wait"),
        lambda bus, run: bus.subscribe(run.id, slow=["block"]),
        lambda bus, run: bus.subscribe("later", timeout="1"),
        lambda bus, run: bus.subscribe("later", timeout=float("nan")),
        lambda bus, run: bus.subscribe(run.id, after=1),
        lambda bus, run: bus.stream(print, options={"bound": 3}),
        lambda bus, run: bus.stream(print, options=StreamOptions),
        lambda bus, run: bus.stream(print, options=StreamOptions(bound=0.5)),
        lambda bus, run: bus.stream(print, options=StreamOptions(grace="5")),
        lambda bus, run: bus.stream(print, options=StreamOptions(tags=["a"])),
        lambda bus, run: bus.stream(None),
        lambda bus, run: bus.submit(None),
        lambda bus, run: bus.run(tags=["a"]),
        lambda bus, run: bus.run(tags="a"),
        lambda bus, run: bus.run(tags={"a": 1}),
        lambda bus, run: bus.run(record="no"),
        lambda bus, run: bus.run(durability=True),
        lambda bus, run: bus.run(id=3),
        lambda bus, run: bus.run(3),
        lambda bus, run: bus.call(None),
        lambda bus, run: bus.call("model", callbacks=3),
        lambda bus, run: bus.call("model", callbacks=print),
        lambda bus, run: bus.call("model", callbacks="print").start(),
        lambda bus, run: bus.callbacks([print]).__enter__(),
        lambda bus, run: bus.callbacks(None).__enter__(),
        lambda bus, run: bus.resume(run),
        lambda bus, run: bus.resume(run.id, at=3),
        lambda bus, run: bus.fork(run),
        lambda bus, run: bus.fork(run.id, at=3),
        lambda bus, run: bus.fork(run.id, edits=["step"]),
        lambda bus, run: bus.record_of(run),
        lambda bus, run: bus.replay(run),
        lambda bus, run: bus.export(run, "file"),
        lambda bus, run: bus.enable_recording(checkpoint_on=Noted),
        lambda bus, run: bus.enable_recording(max_event_bytes="1"),
        lambda bus, run: bus.enable_recording(durability="later"),
        lambda bus, run: bus.flush("1"),
        lambda bus, run: run.checkpoint(None),
        lambda bus, run: run.track(None, 3),
    ],
)
def test_an_argument_of_another_kind_is_refused_at_once(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with quiet_bus() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        with bus.run() as run:
            with pytest.raises(crewbus.CrewbusError) as raised:
                use(bus, run)
            bus.chunk("the run goes on")
        assert str(raised.value)
        assert run.state == "finished"
        assert bus.runs == []


@pytest.mark.parametrize("error", [ValueError, None, 3])
def test_a_call_and_an_attempt_fail_with_an_instance(error):
    with quiet_bus() as bus, bus.run() as run:
        with bus.call("model") as call:
            with pytest.raises(crewbus.InputError, match="not its class"):
                call.fail(error)
            assert not call.ended
        with run.attempt() as attempt:
            with pytest.raises(crewbus.InputError, match="not its class"):
                attempt.fail(error)
            assert not attempt.ended


@pytest.mark.parametrize("reported", [{"usage": [1]}, {"usage": 3}, {"cost": "0.1"}])
def test_a_call_reports_usage_and_cost_as_its_consumers_read_them(reported):
    with quiet_bus() as bus, bus.call("model") as call, pytest.raises(crewbus.InputError):
        call.finish(**reported)


@pytest.mark.parametrize("use", [lambda stream: stream.result("1"), lambda stream: stream.result(float("nan"))])
def test_a_result_is_waited_for_a_number_of_seconds(use):
    with quiet_bus() as bus, bus.stream(lambda: 3) as stream:
        with pytest.raises(crewbus.InputError, match="number of seconds"):
            use(stream)
        assert stream.result() == 3


def test_a_class_in_place_of_an_event_is_named_as_such():
    with quiet_bus() as bus, pytest.raises(crewbus.UnregisteredEventError, match="make an instance"):
        bus.emit(Noted)
