"""Law 1 of durable runs: what resumed code says, and the record does not have, is recorded and streamed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context

import pytest
from helpers import TIMEOUT, Noted
from recorded_helpers import text_of

import crewbus


class Crash(BaseException):
    """Ends a run as a crash of its process does."""


def resumed(bus: crewbus.Bus, agent: Callable[[crewbus.Run, bool], object]) -> None:
    """Carry out ``agent`` up to its crash, and resume it."""
    with pytest.raises(Crash), bus.run(id="r") as run:
        agent(run, True)
    with bus.resume("r") as run:
        agent(run, False)


def undisturbed(bus: crewbus.Bus, agent: Callable[[crewbus.Run, bool], object]) -> str:
    """What ``agent`` says if it does not crash."""
    with bus.run(id="whole") as run:
        agent(run, False)
    return text_of(bus, "whole")


def in_bare_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=Context().run, args=(function,))
    thread.start()
    thread.join(TIMEOUT)


# What was said more often, or less often, does not change what is new


def test_law_01_what_follows_a_step_that_was_tried_again_is_recorded_and_streamed(bus: crewbus.Bus) -> None:
    fails = iter([True, False])

    def ask() -> str:
        if next(fails):
            raise ConnectionError
        return "ok"

    def agent(crash: bool) -> None:
        run = crewbus.current_run()
        assert run is not None
        for _ in range(3):
            try:
                run.step("ask", ask)
                break
            except ConnectionError:
                bus.chunk("(retrying) ")
        if crash:
            raise Crash
        bus.chunk("THE ANSWER")

    with pytest.raises(Crash), bus.run(id="r"):
        agent(True)
    with bus.stream(agent, False, options=crewbus.StreamOptions(resume="r")) as stream:
        streamed = [envelope.event.text for envelope in stream if isinstance(envelope.event, crewbus.Chunk)]
    assert streamed == ["THE ANSWER"]
    assert text_of(bus, "r") == "(retrying) THE ANSWER"


def test_law_01_a_checkpoint_after_a_step_that_was_tried_again_can_be_forked_from(bus: crewbus.Bus) -> None:
    fails = iter([True, False])

    def ask() -> str:
        if next(fails):
            raise ConnectionError
        return "ok"

    def agent(run: crewbus.Run, crash: bool) -> None:
        for _ in range(3):
            try:
                run.step("ask", ask)
                break
            except ConnectionError:
                bus.chunk("(retrying) ")
        if crash:
            raise Crash
        saved = run.checkpoint("answered")
        assert saved is not None
        assert saved.seq > 0
        run.step("more", lambda: 1)

    resumed(bus, agent)
    assert [saved.name for saved in bus.records.checkpoints("r")] == ["answered"]
    assert bus.records.info(bus.fork("r", at="answered")).state == "interrupted"


def test_law_01_what_a_thread_no_longer_says_does_not_take_the_place_of_the_answer(bus: crewbus.Bus) -> None:
    def agent(run: crewbus.Run, crash: bool) -> None:
        begun, beaten = threading.Event(), threading.Event()

        def beat() -> None:
            while not beaten.is_set():
                if begun.wait(0.001):
                    for _ in range(5):
                        bus.chunk(".")
                    beaten.set()

        def long() -> None:
            begun.set()
            assert beaten.wait(TIMEOUT)

        thread = crewbus.Thread(target=beat)
        thread.start()
        run.step("long", long)
        beaten.set()
        thread.join(TIMEOUT)
        if crash:
            raise Crash
        for word in ("THE ", "ANSWER ", "IS ", "42"):
            bus.chunk(word)

    resumed(bus, agent)
    assert text_of(bus, "r") == ".....THE ANSWER IS 42"


def test_law_01_what_a_handler_no_longer_says_does_not_take_the_place_of_the_answer(bus: crewbus.Bus) -> None:
    @bus.on(Noted)
    def mail(envelope: crewbus.Envelope) -> None:
        if not envelope.replayed:
            bus.chunk("[mail sent] ")

    def agent(run: crewbus.Run, crash: bool) -> None:
        bus.emit(Noted("tides"))
        with bus.run("writer") as writer:
            writer.step("draft", lambda: "draft")
        if crash:
            raise Crash
        bus.chunk("THE ANSWER")

    resumed(bus, agent)
    assert text_of(bus, "r") == "[mail sent] THE ANSWER"


def test_law_01_what_the_code_no_longer_says_does_not_take_the_place_of_the_answer(bus: crewbus.Bus) -> None:
    def agent(run: crewbus.Run, crash: bool) -> None:
        if crash:
            bus.chunk("(loading the model) ")
        with bus.run("writer") as writer:
            writer.step("draft", lambda: "draft")
        if crash:
            raise Crash
        bus.chunk("THE ANSWER")

    resumed(bus, agent)
    assert text_of(bus, "r") == "(loading the model) THE ANSWER"


# What a step says elsewhere


def said_by_a_bare_thread(run: crewbus.Run, crash: bool) -> None:
    run.step("ask", in_bare_thread, lambda: [run.chunk(text) for text in ("thinking ", "hard ")], key="1")
    if crash:
        raise Crash
    for text in ("THE ", "ANSWER", "."):
        run.chunk(text)


def said_to_an_outer_run(run: crewbus.Run, crash: bool) -> None:
    def work() -> None:
        run.chunk("[progress] ")

    with run.bus.run("inner") as inner:
        inner.step("work", work)
    if crash:
        raise Crash
    run.chunk("THE ANSWER")


def saved_in_an_outer_run(run: crewbus.Run, crash: bool) -> None:
    def work() -> None:
        run.checkpoint("saved")

    with run.bus.run("inner") as inner:
        inner.step("work", work)
    if crash:
        raise Crash
    run.chunk("THE ANSWER")


@pytest.mark.parametrize("agent", [said_by_a_bare_thread, said_to_an_outer_run, saved_in_an_outer_run])
def test_law_01_what_a_step_said_elsewhere_does_not_take_the_place_of_the_answer(bus: crewbus.Bus, agent) -> None:
    resumed(bus, agent)
    assert text_of(bus, "r") == undisturbed(bus, agent)


def test_law_01_equal_texts_are_each_recorded(bus: crewbus.Bus) -> None:
    def agent(run: crewbus.Run, crash: bool) -> None:
        for _ in range(2 if crash else 5):
            bus.chunk("a")
        run.step("s", lambda: None)
        if crash:
            raise Crash
        bus.chunk("a")

    resumed(bus, agent)
    assert text_of(bus, "r") == "aaaaaa"


def test_law_01_what_is_no_text_is_refused_where_it_is_said(bus: crewbus.Bus) -> None:
    for value in (None, 5):

        def agent(value: object = value) -> None:
            crewbus.chunk("a")
            with pytest.raises(crewbus.CrewbusError):
                crewbus.chunk(value)  # type: ignore[arg-type]
            crewbus.chunk("b")

        with bus.stream(agent, options=crewbus.StreamOptions(id=f"r{value}")) as stream:
            assert stream.text() == "ab"
        assert text_of(bus, f"r{value}") == "ab"
