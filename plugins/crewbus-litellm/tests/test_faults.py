"""Errors in reporting do not break litellm's calls, except those that must not be hidden."""

from __future__ import annotations

import logging

import litellm
import pytest
from helpers import quiet_bus
from styles import STYLES, Listener, asked

import crewbus
import crewbus_litellm


class Refuser:
    """A plugin that fails on events of the types given: nothing of them is emitted."""

    def __init__(self, *kinds):
        self.kinds = kinds

    @crewbus.hookimpl
    def crewbus_redact(self, event):
        if isinstance(event, self.kinds):
            raise ValueError("can't say whether this may be seen")


class BrokenRecorder:
    """A recorder that fails on events of a type."""

    def __init__(self, kind):
        self.kind = kind

    @crewbus.hookimpl
    def crewbus_record(self, envelope):
        if isinstance(envelope.event, self.kind):
            raise crewbus.RecordingError("the disk is full")


def answer(url, style):
    return STYLES[style](**asked(url)).strip()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", [crewbus.CallStarted, crewbus.Chunk, crewbus.CallFinished, object])
def test_rejected_events_do_not_break_the_call(bus, url, style, kind, caplog):
    caplog.set_level(logging.CRITICAL + 1, "crewbus")
    bus.plugins.register(Refuser(kind))
    assert answer(url, style) == "Final Answer: a:0 a:1 a:2"


def test_a_call_whose_answer_is_rejected_still_ends(bus, url, caplog):
    caplog.set_level(logging.ERROR, "crewbus")
    bus.plugins.register(Refuser(crewbus.CallFinished))
    listener = Listener()
    with bus.callbacks(listener):
        answer(url, "sync")
    assert listener.names == ["CallStarted", "CallFinished"]
    assert listener.end == crewbus.CallFinished()  # without what the redactor could not judge
    assert any("crewbus-litellm: reporting the end of a call failed" in message for message in caplog.messages)


def test_a_closed_bus_does_not_break_a_call(url):
    with quiet_bus() as bus:
        crewbus_litellm.install(bus)
    assert answer(url, "sync") == "Final Answer: a:0 a:1 a:2"
    crewbus_litellm.uninstall()


def test_a_bus_closed_in_the_middle_of_a_stream_does_not_break_it(url, caplog):
    caplog.set_level(logging.CRITICAL + 1, "crewbus")
    with quiet_bus() as bus:
        crewbus_litellm.install(bus)
        stream = litellm.completion(stream=True, **asked(url))
        next(stream)
    assert len(list(stream)) == 4
    crewbus_litellm.uninstall()


@pytest.mark.parametrize("style", STYLES)
def test_a_call_outside_runs_works_if_unscoped_chunks_are_errors(url, style):
    with quiet_bus(unscoped="raise") as bus:
        crewbus_litellm.install(bus)
        listener = Listener()
        with bus.callbacks(listener):
            answer(url, style)
        assert listener.names[-1] == "CallFinished"
    crewbus_litellm.uninstall()


def test_a_callback_that_raises_is_contained(bus, url):
    def fails(envelope):
        raise ValueError("no")

    listener = Listener()
    with bus.callbacks(fails, listener):
        assert answer(url, "sync stream") == "Final Answer: a:0 a:1 a:2"
    assert listener.names[-1] == "CallFinished"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", [crewbus.CallStarted, crewbus.Chunk, crewbus.CallFinished])
def test_a_recording_error_propagates(bus, url, style, kind):
    if kind is crewbus.Chunk and "stream" not in style:
        pytest.skip("a call that doesn't stream has no chunks")
    bus.plugins.register(BrokenRecorder(kind))
    with bus.run(record=True), pytest.raises(crewbus.RecordingError, match="the disk is full"):
        answer(url, style)


@pytest.mark.parametrize("style", STYLES)
def test_a_cancelled_run_makes_no_calls(bus, url, style):
    listener = Listener()

    def work():
        with bus.run() as run, bus.callbacks(listener):
            run.cancel("enough")
            answer(url, style)

    with pytest.raises(crewbus.Cancelled, match="enough"):
        work()
    assert listener.names == []


def test_an_unknown_kind_of_response_is_an_empty_answer(bus, monkeypatch):
    monkeypatch.setattr(litellm.main, "stream_chunk_builder", None)
    listener = Listener()
    from crewbus_litellm.answer import answer_of

    assert answer_of(object()) == (None, None, None)
    with bus.callbacks(listener):
        litellm.completion(**asked("http://127.0.0.1:9", mock_response="!"))
    assert listener.end.output == "!"
