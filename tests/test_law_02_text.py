"""Laws 2 and 3 of durable runs: attempts that fail, a crash, a resume; the text is that of an undisturbed run, and no
step is executed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from contextvars import copy_context
from typing import Any

import pytest
from recorded_helpers import Disk, Follower, text_of

import crewbus


class Crash(BaseException):
    """Ends a run as a crash of its process does."""


class InvalidError(Exception):
    """The answer is refused."""


# An answer that validation refuses is asked for anew


def answer(bus: crewbus.Bus, scope: Any, run: crewbus.Run, asked: list[str], crash: bool) -> str:
    answers = iter(["bad", "good"][len(asked) :])

    def ask() -> str:
        asked.append(next(answers, "none left"))
        bus.chunk(asked[-1])
        return asked[-1]

    for _ in range(3):
        try:
            with scope.attempt():
                bus.chunk("Answer: ")
                found: str = run.step("ask", ask)
                if crash:
                    raise Crash
                if found == "bad":
                    raise InvalidError
                return found
        except InvalidError:
            continue
    return "gave up"


def in_the_run(bus: crewbus.Bus, run: crewbus.Run, asked: list[str], crash: bool) -> str:
    return answer(bus, run, run, asked, crash)


def in_a_call(bus: crewbus.Bus, run: crewbus.Run, asked: list[str], crash: bool) -> str:
    with bus.call("gpt") as call:
        return answer(bus, call, run, asked, crash)


def in_a_nested_run(bus: crewbus.Bus, run: crewbus.Run, asked: list[str], crash: bool) -> str:
    with bus.run("inner") as inner:
        return answer(bus, inner, inner, asked, crash)


@pytest.mark.parametrize("agent", [in_the_run, in_a_call, in_a_nested_run])
def test_law_02_a_refused_answer_is_refused_again_and_not_asked_for_again(bus: crewbus.Bus, agent) -> None:
    asked: list[str] = []
    follower = Follower()
    with pytest.raises(Crash), bus.run(id="r") as run:
        agent(bus, run, asked, True)
    follower.follow(bus, "r")
    with bus.resume("r") as run:
        assert agent(bus, run, asked, False) == "good"
    follower.follow(bus, "r")
    assert asked == ["bad", "good"]
    assert "".join(follower.texts) == text_of(bus, "r") == "Answer: good"


def paid_twice(bus: crewbus.Bus, run: crewbus.Run, calls: list[int], crash: bool) -> None:
    for number in (1, 2):

        def pay(number: int = number) -> int:
            calls.append(number)
            bus.chunk(f"[paid in try {number}]")
            return number

        try:
            with run.attempt():
                run.step("pay", pay)
                if number == 1:
                    raise TimeoutError("cold cache")  # not in a step: the same each time
                break
        except TimeoutError:
            continue
    run.step("after", lambda: bus.chunk("[after]") and None)
    if crash:
        raise Crash
    bus.chunk("[end]")


def test_law_03_no_step_of_a_failed_attempt_is_executed_again(bus: crewbus.Bus) -> None:
    calls: list[int] = []
    with bus.run(id="whole") as run:
        paid_twice(bus, run, calls, False)
    assert calls == [1, 2]
    calls.clear()
    with pytest.raises(Crash), bus.run(id="r") as run:
        paid_twice(bus, run, calls, True)
    with bus.resume("r") as run:
        paid_twice(bus, run, calls, False)
    assert calls == [1, 2]
    assert text_of(bus, "r") == text_of(bus, "whole") == "[paid in try 2][after][end]"


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_law_02_rejected_text_is_not_streamed_again(bus: crewbus.Bus, fails: int) -> None:
    def agent(run: crewbus.Run, crash: bool) -> None:
        for number in range(4):
            try:
                with run.attempt():
                    bus.chunk("draft ")
                    run.step("check", lambda number=number: number)
                    if number < fails:
                        raise InvalidError
                    break
            except InvalidError:
                continue
        if crash:
            raise Crash
        bus.chunk("end")

    with pytest.raises(Crash), bus.run(id="r") as run:
        agent(run, True)
    with bus.subscribe("r", after="start") as stream:
        list(stream)
        cursor = stream.cursor
    with bus.resume("r") as run:
        agent(run, False)
    with bus.subscribe("r", after=cursor) as stream:
        later = [envelope.event for envelope in stream]
    assert [event.text for event in later if isinstance(event, crewbus.Chunk)] == ["end"]
    (taken_back,) = [event for event in later if isinstance(event, crewbus.Retracted)]
    assert "end" in taken_back.reason  # the run's, and nothing else
    assert text_of(bus, "r") == "draft end"


# Attempts in parallel, of which one fails, and whose turns come in another order once the run is resumed


def parallel(bus: crewbus.Bus, run: crewbus.Run, letter: str, fails: bool) -> Iterator[None]:
    """An attempt that yields before each thing it does."""
    with suppress(InvalidError), run.attempt():
        yield
        bus.chunk(f"{letter} ")
        for number in range(2):
            yield
            with bus.call("gpt"):
                yield
                bus.chunk(f"{letter}{number} ")
        yield
        if fails:
            raise InvalidError


def take_turns(bus: crewbus.Bus, run: crewbus.Run, order: str, failing: str, turns: int) -> None:
    attempts = [(copy_context(), parallel(bus, run, letter, letter == failing)) for letter in order]
    for _ in range(turns):
        for context, attempt in attempts:
            context.run(next, attempt, None)


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("failing", ["", "a", "b"])
@pytest.mark.parametrize("turns", range(1, 8))
def test_law_02_parallel_attempts_retract_only_their_own_text(disk: Disk, turns: int, failing: str, order: str) -> None:
    """Also where one repeats what is recorded in a call or attempt that another one stands for."""
    with disk.bus() as bus, bus.run(id="run") as run:
        take_turns(bus, run, "ab", failing, turns)
        disk.crash()
    with disk.bus() as bus, bus.resume("run") as run:
        take_turns(bus, run, order, failing, 8)
    with disk.bus() as bus:
        texts = text_of(bus, "run").split()
        assert sorted(texts) == [f"{kept}{text}" for kept in "ab" if kept != failing for text in ("", "0", "1")]


# Attempts of one number at once, which the record has one of: what they repeat tells whose it is


class Other(Exception):
    """What the code outside attempts fails with."""


def say(bus: crewbus.Bus, text: str, *, called: bool) -> None:
    with bus.call("gpt") if called else nullcontext():
        bus.chunk(text)


def trying(bus: crewbus.Bus, run: crewbus.Run, text: str, *, called: bool, fails: bool) -> Iterator[None]:
    """An attempt that yields once it has begun, and before it ends."""
    with suppress(InvalidError), run.attempt():
        yield
        say(bus, text, called=called)
        yield
        if fails:
            raise InvalidError


def in_turn(*attempts: Iterator[None]) -> None:
    contexts = [copy_context() for _ in attempts]
    for _ in range(3):
        for context, attempt in zip(contexts, attempts, strict=True):
            context.run(next, attempt, None)


@pytest.mark.parametrize("called", [False, True])
def test_law_02_an_attempt_that_begins_first_does_not_retract_what_another_repeats(disk: Disk, called: bool) -> None:
    with disk.bus() as bus:
        with pytest.raises(Other), bus.run("p", id="r") as run:
            in_turn(trying(bus, run, "kept ", called=called, fails=False))
            raise Other
        with bus.resume("r") as run:
            in_turn(
                trying(bus, run, "new ", called=called, fails=True),
                trying(bus, run, "kept ", called=called, fails=False),
            )
        assert text_of(bus, "r") == "kept "


@pytest.mark.parametrize("called", [False, True])
def test_law_02_an_attempt_that_goes_on_says_its_own_text_again(disk: Disk, called: bool) -> None:
    """Also if an equal one began before it: what the run failed with was not that one."""
    with disk.bus() as bus:
        with pytest.raises(Other), bus.run("p", id="r") as run, run.attempt():
            say(bus, "first ", called=called)
            raise Other
        assert text_of(bus, "r") == ""
        for _ in range(2):
            with pytest.raises(Other), bus.resume("r") as run:
                contexts = copy_context(), copy_context()
                beside = trying(bus, run, "beside ", called=called, fails=False)
                contexts[0].run(next, beside)
                with run.attempt():
                    say(bus, "first ", called=called)
                    bus.chunk("second ")
                    raise Other
        with bus.resume("r") as run:
            in_turn(trying(bus, run, "beside ", called=called, fails=True))
            with run.attempt():
                say(bus, "first ", called=called)
                bus.chunk("second ")
        assert text_of(bus, "r").split() == ["first", "second"]


@pytest.mark.parametrize("called", [False, True])
def test_law_02_an_attempt_that_begins_anew_leaves_nothing_ahead(disk: Disk, called: bool) -> None:
    with disk.bus() as bus:
        with bus.run("p", id="r") as run, run.attempt(), bus.call("gpt") if called else nullcontext():
            disk.crash()
    with disk.bus() as bus:
        with bus.resume("r") as run:
            in_turn(trying(bus, run, "new ", called=called, fails=False))
            assert run.patched("later")
        assert text_of(bus, "r") == "new "
