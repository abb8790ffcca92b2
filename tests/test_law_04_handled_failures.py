"""Law 4 of durable runs: a failure that the code handled is an outcome."""

from __future__ import annotations

import pytest
from recorded_helpers import text_of

import crewbus


class Crash(BaseException):
    """Ends a run as a crash of its process does."""


@crewbus.register_exception
class DeclinedError(Exception):
    """The card is declined."""


class StrangeError(Exception):
    """Not registered."""


class RefusedError(Exception):
    """Named where the step is declared."""


@pytest.mark.parametrize("kind", [TimeoutError, DeclinedError, RefusedError, StrangeError])
def test_law_04_the_same_way_is_taken_again_and_nobody_is_charged_twice(bus: crewbus.Bus, kind: type) -> None:
    done: list[str] = []
    visa_is_down = True

    @crewbus.step(raises=RefusedError)
    def charge(card: str) -> str:
        if card == "visa" and visa_is_down:
            raise kind("visa")
        done.append(f"charged {card}")
        return card

    @crewbus.step
    def ship(card: str) -> str:
        done.append(f"shipped for {card}")
        return card

    def order(crash: bool) -> str:
        try:
            paid = charge("visa")
        except (TimeoutError, DeclinedError, RefusedError) as error:
            assert type(error) is kind
            assert error.args == ("visa",)
            paid = charge("amex")
        except (StrangeError, crewbus.StepFailedError):
            paid = charge("amex")
        ship(paid)
        if crash:
            raise Crash
        return paid

    with pytest.raises(Crash), bus.run(id="r"):
        order(True)
    visa_is_down = False
    with bus.resume("r"):
        assert order(False) == "amex"
    assert done == ["charged amex", "shipped for amex"]


def test_law_04_an_unknown_failure_comes_back_with_the_name_of_its_type(bus: crewbus.Bus) -> None:
    def fail() -> None:
        raise StrangeError("what now")

    def agent(run: crewbus.Run, crash: bool) -> Exception | None:
        found: Exception | None = None
        try:
            run.step("fail", fail)
        except (StrangeError, crewbus.StepFailedError) as error:
            found = error
        run.step("more", lambda: None)
        if crash:
            raise Crash
        return found

    with pytest.raises(Crash), bus.run(id="r") as run:
        agent(run, True)
    with bus.resume("r") as run:
        found = agent(run, False)
    assert isinstance(found, crewbus.StepFailedError)
    assert found.error.endswith("StrangeError")
    assert found.message == "what now"


def test_law_04_the_step_that_failed_last_is_executed_again(bus: crewbus.Bus) -> None:
    calls: list[str] = []

    def ask() -> str:
        calls.append("ask")
        bus.chunk(f"try {len(calls)}")
        if len(calls) == 1:
            raise ConnectionError
        return "answer"

    with pytest.raises(ConnectionError), bus.run(id="r") as run:
        run.step("ask", ask)
    with bus.resume("r") as run:
        assert run.step("ask", ask) == "answer"
    assert len(calls) == 2
    assert text_of(bus, "r") == "try 2"


def test_law_04_a_retry_after_a_failure_is_another_step(bus: crewbus.Bus) -> None:
    calls: list[int] = []

    def ask() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError(f"try {len(calls)}")
        return "answer"

    def agent(run: crewbus.Run, crash: bool) -> list[str]:
        told: list[str] = []
        while True:
            try:
                told.append(run.step("ask", ask))
                break
            except ConnectionError as error:
                told.append(str(error))
        if crash:
            raise Crash
        return told

    with pytest.raises(Crash), bus.run(id="r") as run:
        agent(run, True)
    with bus.resume("r") as run:
        assert agent(run, False) == ["try 1", "try 2", "answer"]
    assert len(calls) == 3
