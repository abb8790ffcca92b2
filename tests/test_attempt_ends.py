"""How attempts end: each that started ends once, in the events, in the record, and when it is resumed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from helpers import quiet_bus
from plugin_helpers import Observer

import crewbus
from crewbus import AttemptEnded, AttemptStarted


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
def bus(observer: Observer) -> Iterator[crewbus.Bus]:
    with quiet_bus(plugins=[observer]) as bus:
        yield bus


def ends(observer: Observer) -> list[AttemptEnded]:
    return [event for event in observer.events if isinstance(event, AttemptEnded)]


@pytest.mark.parametrize("scope", ["run", "call"])
def test_an_attempt_that_succeeds_ends_in_itself(bus: crewbus.Bus, observer: Observer, scope: str) -> None:
    with bus.run() as run, bus.call("gpt") as call:
        with (run if scope == "run" else call).attempt():
            bus.chunk("x")
    start, chunk, end = observer.envelopes[2:5]
    assert end.event == AttemptEnded(1, "succeeded")
    assert (start.id, start.id) == (chunk.parent, end.parent)
    assert end.attempt == 1


def test_one_that_fails_ends_after_its_retraction(bus: crewbus.Bus, observer: Observer) -> None:
    with bus.run() as run, suppress(ValueError), run.attempt(3):
        raise ValueError("cut")
    assert [type(event).__name__ for event in observer.events[2:4]] == ["Retracted", "AttemptEnded"]
    assert observer.events[3] == AttemptEnded(3, "failed", "builtins.ValueError", "cut")


def test_one_that_a_text_fails_has_that_as_its_message(bus: crewbus.Bus, observer: Observer) -> None:
    with bus.run() as run, run.attempt() as attempt:
        attempt.fail("cut")
        attempt.fail("again")
    assert ends(observer) == [AttemptEnded(1, "failed", message="cut")]


def test_one_that_is_cancelled_says_so(bus: crewbus.Bus, observer: Observer) -> None:
    async def main() -> None:
        with bus.run() as run, suppress(TimeoutError):
            async with asyncio.timeout(0):
                with run.attempt():
                    await asyncio.Event().wait()

    asyncio.run(main())
    assert ends(observer) == [AttemptEnded(1, "cancelled")]


def test_one_that_ends_after_its_run_does_not_say_so(bus: crewbus.Bus, observer: Observer) -> None:
    with bus.run() as run:
        attempt = run.attempt()
        attempt.start()
    attempt.finish()
    assert ends(observer) == []


def test_one_that_is_suspended_stays_open_in_the_record(bus: crewbus.Bus, observer: Observer) -> None:
    bus.enable_recording()
    with pytest.raises(crewbus.RunSuspendedError), bus.run(id="r") as run, run.attempt():
        run.suspend()
        bus.chunk("x")
    assert ends(observer) == []
    with bus.resume("r") as run, run.attempt():
        pass
    assert [one.event for one in bus.record_of("r") if isinstance(one.event, AttemptEnded)] == [
        AttemptEnded(1, "succeeded")
    ]


def work(bus: crewbus.Bus, run: crewbus.Run, *, new: str = "", fails: bool = False) -> None:
    """Two attempts; the second says something new, if it is given."""
    with suppress(ValueError), run.attempt():
        bus.chunk("lost")
        raise ValueError
    with run.attempt():
        bus.chunk("said. ")
        if new:
            bus.chunk(new)
    if fails:
        raise KeyError


@pytest.mark.parametrize("new", ["", "more. "])
def test_a_resumed_run_repeats_the_ends_of_what_it_repeats(bus: crewbus.Bus, observer: Observer, new: str) -> None:
    bus.enable_recording()
    with pytest.raises(KeyError), bus.run(id="r") as run:
        work(bus, run, fails=True)
    observer.envelopes.clear()
    with bus.resume("r") as run:
        work(bus, run, new=new)
    told = [(one.event.outcome, one.replayed) for one in observer.envelopes if isinstance(one.event, AttemptEnded)]
    assert told == [("failed", True), ("succeeded", not new)]
    record = [one.event for one in bus.record_of("r")]
    assert sum(isinstance(event, AttemptEnded) for event in record) == sum(
        isinstance(event, AttemptStarted) for event in record
    )


def test_an_attempt_that_ends_otherwise_when_it_is_resumed_ends_anew(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    with pytest.raises(KeyError), bus.run(id="r") as run, run.attempt():
        bus.chunk("said. ")
        raise KeyError
    with bus.resume("r") as run, run.attempt():
        bus.chunk("said. ")
    outcomes = [one.event.outcome for one in bus.record_of("r") if isinstance(one.event, AttemptEnded)]
    assert outcomes == ["failed", "succeeded"]


def test_a_redactor_that_fails_does_not_hide_the_end(bus: crewbus.Bus, observer: Observer) -> None:
    class Redactor:
        @crewbus.hookimpl
        def crewbus_redact(self, event: Any) -> None:
            if isinstance(event, AttemptEnded):
                raise LookupError

    bus.plugins.register(Redactor())
    with bus.run() as run:
        with pytest.raises(crewbus.RedactionError), run.attempt() as attempt:
            attempt.fail("secret")
    assert [one.outcome for one in ends(observer)] == ["failed"]
    assert "secret" not in ends(observer)[0].message
