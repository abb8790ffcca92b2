"""Retries of steps: each try is an attempt in the step, and a resumed run makes no failed try again."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest
from helpers import TIMEOUT, in_thread, quiet_bus
from recorded_helpers import found, names, text_of

import crewbus
from crewbus import (
    AttemptStarted,
    Cancelled,
    Chunk,
    FencedError,
    Retracted,
    StepError,
    StepFailed,
    StepFinished,
    StepStarted,
    step,
)

TRIES: list[int] = []
"""What the steps of this module were called with, in order."""


@pytest.fixture(autouse=True)
def no_tries():
    TRIES.clear()


def failing(times, text="text", error=ValueError):
    """A function that says something and fails the first ``times`` times."""

    def call(*args):
        TRIES.append(len(TRIES) + 1)
        crewbus.chunk(f"{text} {len(TRIES)} ")
        if len(TRIES) <= times:
            raise error(f"try {len(TRIES)}")
        return len(TRIES)

    return call


def retried(function, is_async=False, **options):
    async def acall(*args):
        return function(*args)

    return step(name="ask", backoff=0, **options)(acall if is_async else function)


def run_of(bus, ask, run_id="run"):
    """Call the step in a run."""
    if inspect.iscoroutinefunction(ask):

        async def main():
            async with bus.run(id=run_id):
                return await ask()

        return asyncio.run(main())
    with bus.run(id=run_id):
        return ask()


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request):
    return request.param


# Tries


def test_a_step_is_tried_until_it_returns(bus, is_async):
    assert run_of(bus, retried(failing(2), is_async, retries=3)) == 3
    assert TRIES == [1, 2, 3]
    assert names(bus, "run")[1:-1] == [
        "StepStarted",
        *["AttemptStarted", "Chunk", "Retracted", "AttemptEnded"] * 2,
        *["AttemptStarted", "Chunk", "AttemptEnded"],
        "StepFinished",
    ]
    assert [one.event.number for one in found(bus, "run", AttemptStarted)] == [1, 2, 3]
    assert text_of(bus, "run") == "text 3 "


def test_a_step_that_never_returns_fails_with_the_last_error(bus, is_async):
    with pytest.raises(ValueError, match="try 3"):
        run_of(bus, retried(failing(9), is_async, retries=2))
    assert TRIES == [1, 2, 3]
    (failed,) = found(bus, "run", StepFailed)
    assert failed.event.message == "try 3"
    assert text_of(bus, "run") == ""


def test_a_step_without_retries_is_called_once_and_has_no_attempt(bus, is_async):
    with pytest.raises(ValueError, match="try 1"):
        run_of(bus, retried(failing(9), is_async))
    assert TRIES == [1]
    assert found(bus, "run", AttemptStarted) == []


def test_it_is_tried_again_in_a_run_that_is_not_recorded_and_outside_any(is_async):
    def fail_once():
        TRIES.append(1)
        return 1 / (len(TRIES) - 1)

    ask = retried(fail_once, is_async, retries=1)
    with quiet_bus() as bus:
        assert run_of(bus, ask) == 1
    TRIES.clear()
    assert (asyncio.run(ask()) if is_async else ask()) == 1


@pytest.mark.parametrize("error", [FencedError, crewbus.ReplayMismatch, crewbus.BusClosedError, Cancelled])
def test_what_no_other_try_can_mend_is_raised_at_once(bus, error):
    with pytest.raises(error):
        run_of(bus, retried(failing(9, error=error), retries=3))
    assert TRIES == [1]


def test_a_result_that_can_not_be_recorded_is_no_failed_try(bus):
    @step(retries=3, backoff=0)
    def ask():
        TRIES.append(1)
        return object()

    with pytest.raises(crewbus.UnserializableError):
        run_of(bus, ask)
    assert TRIES == [1]


# Resuming: laws 1 to 3


@pytest.mark.parametrize("failed", [0, 1, 2, 3])
def test_law_03_tries_that_are_recorded_as_failed_are_not_made_again(disk, failed):
    """Of four tries, so many fail, and then the process dies in the next one."""

    def ask():
        TRIES.append(len(TRIES) + 1)
        crewbus.chunk(f"try {len(TRIES)} ")
        if len(TRIES) <= failed:
            raise ValueError(f"try {len(TRIES)}")
        if len(TRIES) == failed + 1:
            disk.crash()
        return len(TRIES)

    ask = step(name="ask", retries=3, backoff=0)(ask)
    with disk.bus() as bus:
        run_of(bus, ask)
    with disk.bus() as bus:
        with bus.resume("run") as run:
            assert ask() == failed + 2
            assert run.epoch == 2
        assert [one.event.number for one in found(bus, "run", AttemptStarted)] == [*range(1, failed + 2), failed + 1]
        assert len(found(bus, "run", StepFinished)) == 1
        assert text_of(bus, "run") == f"try {failed + 2} "


def test_law_03_tries_are_counted_over_several_crashes(disk):
    """Two tries fail, a crash; one fails, a crash: the fourth is the last."""

    def ask():
        TRIES.append(len(TRIES) + 1)
        if len(TRIES) in (3, 5):
            disk.crash()
        raise ValueError(f"call {len(TRIES)}")

    ask = step(name="ask", retries=3, backoff=0)(ask)
    with disk.bus() as bus:
        run_of(bus, ask)
    with disk.bus() as bus, bus.resume("run"):
        ask()
    with disk.bus() as bus, pytest.raises(ValueError, match="call 6"), bus.resume("run"):
        ask()
    with disk.bus() as bus:
        assert [one.event.number for one in found(bus, "run", AttemptStarted)] == [1, 2, 3, 3, 4, 4]


def test_law_03_a_step_that_failed_for_good_begins_with_its_first_try(disk):
    ask = retried(failing(3), retries=2)
    with disk.bus() as bus, pytest.raises(ValueError, match="try 3"):
        run_of(bus, ask)
    with disk.bus() as bus:
        with bus.resume("run"):
            assert ask() == 4
        assert [one.event.number for one in found(bus, "run", AttemptStarted)] == [1, 2, 3, 1]
        assert text_of(bus, "run") == "text 4 "


def test_law_03_a_finished_step_is_recalled_whatever_its_tries(disk):
    with disk.bus() as bus, bus.run(id="run"):
        assert retried(failing(1), retries=1)() == 2
        disk.crash()
    with disk.bus() as bus, bus.resume("run"):
        assert retried(failing(9), retries=0)() == 2
    assert TRIES == [1, 2]


def test_law_03_steps_of_a_failed_try_are_not_those_of_the_next(disk):
    """A try asks for its steps anew, also where the tries before it are not made again."""
    asked = []

    def fetch():
        asked.append(len(asked) + 1)
        return len(asked)

    def ask():
        TRIES.append(len(TRIES) + 1)
        got = crewbus.current_run().step("fetch", fetch)
        if got < 3:
            raise ValueError(f"too small: {got}")
        if len(TRIES) == 3:
            disk.crash()
        return got

    ask = step(name="ask", retries=5, backoff=0)(ask)
    with disk.bus() as bus:
        run_of(bus, ask)
    with disk.bus() as bus, bus.resume("run"):
        assert ask() == 3
    assert asked == [1, 2, 3]  # the third was recorded
    assert TRIES == [1, 2, 3, 4]


def test_law_03_nested_runs_of_a_failed_try_are_not_those_of_the_next(disk):
    asked = []

    def fetch():
        asked.append(len(asked) + 1)
        return len(asked)

    def ask():
        TRIES.append(len(TRIES) + 1)
        with crewbus.current_run().bus.run("nested") as nested, nested.bus.call("model"):
            got = nested.step("fetch", fetch)
            nested.chunk(f"got {got} ")
        if got < 2:
            raise ValueError(f"too small: {got}")
        if len(TRIES) == 2:
            disk.crash()
        return got

    ask = step(name="ask", retries=5, backoff=0)(ask)
    with disk.bus() as bus:
        run_of(bus, ask)
    with disk.bus() as bus:
        with bus.resume("run"):
            assert ask() == 2
        assert text_of(bus, "run") == "got 2 "
    assert asked == [1, 2]


def test_law_02_what_a_try_after_a_resume_repeats_is_there_once(disk):
    def ask():
        TRIES.append(len(TRIES) + 1)
        crewbus.chunk("the same ")
        with crewbus.call("model"):
            crewbus.chunk("in a call ")
        if len(TRIES) == 1:
            raise ValueError("first")
        if len(TRIES) == 2:
            disk.crash()
        return 1

    ask = step(name="ask", retries=2, backoff=0)(ask)
    with disk.bus() as bus:
        run_of(bus, ask)
    with disk.bus() as bus:
        with bus.resume("run"):
            ask()
        assert text_of(bus, "run") == "the same in a call "


# Waiting


@pytest.mark.parametrize(
    ("backoff", "waits"), [(0.5, [0.5, 1.0, 2.0]), (lambda number: number / 10, [0.1, 0.2, 0.3])], ids=["number", "fn"]
)
def test_the_wait_doubles_or_is_what_the_function_returns(bus, is_async, monkeypatch, backoff, waits):
    waited = []

    async def anote(self, step, seconds):
        waited.append(seconds)

    note = anote if is_async else lambda self, step, seconds: waited.append(seconds)
    monkeypatch.setattr(f"crewbus.durability.retries.Retries.{'_apause' if is_async else '_pause'}", note)
    ask = failing(3)

    async def aask():
        return ask()

    assert run_of(bus, step(name="ask", retries=3, backoff=backoff)(aask if is_async else ask)) == 4
    assert waited == waits


def test_cancelling_the_run_ends_the_wait_of_a_sync_step(bus):
    tried = threading.Event()
    runs = []

    @step(retries=1, backoff=3600)
    def ask():
        tried.set()
        raise ValueError("first")

    def work():
        with bus.run(id="run") as run:
            runs.append(run)
            ask()

    working = in_thread(work)
    assert tried.wait(TIMEOUT)
    runs[0].cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        working.result(TIMEOUT)
    assert found(bus, "run", StepFailed) == []


def test_cancelling_the_run_ends_the_wait_of_an_async_step(bus):
    async def main():
        tried = asyncio.Event()

        @step(retries=1, backoff=3600)
        async def ask():
            tried.set()
            raise ValueError("first")

        async def work():
            async with bus.run(id="run") as run:
                runs.append(run)
                await asyncio.gather(ask())  # in a task of its own, which the run does not know

        runs = []
        working = asyncio.create_task(work())
        await tried.wait()
        runs[0].cancel("enough")
        with pytest.raises(Cancelled, match="enough"):
            await working

    asyncio.run(asyncio.wait_for(main(), TIMEOUT))


def test_suspending_the_run_ends_the_wait_and_the_tries_count(disk):
    tried = threading.Event()
    runs = []

    def hour(number):  # asked once the try has ended
        tried.set()
        return 3600

    @step(name="ask", retries=1, backoff=hour)
    def ask():
        TRIES.append(1)
        raise ValueError(f"call {len(TRIES)}")

    def work(bus):
        with bus.run(id="run") as run:
            runs.append(run)
            ask()

    with disk.bus() as bus:
        working = in_thread(work, bus)
        assert tried.wait(TIMEOUT)
        runs[0].suspend()
        assert working.exception(TIMEOUT) is not None
        assert bus.recorded_runs()[0].state == "suspended"
    with disk.bus() as bus:
        with pytest.raises(ValueError, match="call 2"), bus.resume("run"):
            ask()
        assert [one.event.number for one in found(bus, "run", AttemptStarted)] == [1, 2]


def test_closing_the_bus_ends_the_wait():
    tried = threading.Event()

    @step(retries=1, backoff=3600)
    def ask():
        tried.set()
        raise ValueError("again")

    def work():
        with bus.run():
            ask()

    with quiet_bus() as bus:
        working = in_thread(work)
        assert tried.wait(TIMEOUT)
    with pytest.raises(crewbus.BusClosedError, match="ask' is not tried again"):
        working.result(TIMEOUT)


def test_law_10_a_sync_step_does_not_block_the_loop_to_wait(bus):
    async def main():
        with bus.run():
            return step(name="ask", retries=1, backoff=3600)(failing(1))()

    assert asyncio.run(asyncio.wait_for(main(), TIMEOUT)) == 2


def test_law_10_the_wait_of_an_async_step_lets_the_loop_go_on(bus):
    async def main():
        async with bus.run():
            asked = asyncio.create_task(step(name="ask", retries=1, backoff=0.01)(afailing)())
            while len(TRIES) < 2:
                await asyncio.sleep(0)
            return await asked

    ask = failing(1)

    async def afailing():
        return ask()

    assert asyncio.run(main()) == 2


def test_a_backoff_that_returns_no_duration_is_named(bus):
    ask = step(name="ask", retries=1, backoff=lambda number: "soon")(failing(1))
    with pytest.raises(StepError, match="'ask': backoff= returned 'soon' after try 1"):
        run_of(bus, ask)


# Timeouts


def test_a_try_that_takes_too_long_is_cancelled_and_made_again(bus):
    @step(retries=1, backoff=0, timeout=0.01)
    async def ask():
        TRIES.append(len(TRIES) + 1)
        crewbus.chunk(f"text {len(TRIES)} ")
        if len(TRIES) == 1:
            await asyncio.Event().wait()
        return len(TRIES)

    assert run_of(bus, ask) == 2
    (retracted,) = found(bus, "run", Retracted)
    assert "took longer than 0.01 s" in retracted.event.reason
    assert text_of(bus, "run") == "text 2 "


def test_a_timeout_without_retries_fails_the_step(bus):
    @step(timeout=0.01)
    async def ask():
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"step 'test_a_timeout_without.*ask' took longer than 0\.01 s"):
        run_of(bus, ask)
    (failed,) = found(bus, "run", StepFailed)
    assert failed.event.error == "builtins.TimeoutError"


def test_a_timeout_of_the_function_itself_is_its_own(bus):
    @step(timeout=3600)
    async def ask():
        raise TimeoutError("the server")

    with pytest.raises(TimeoutError, match="the server"):
        run_of(bus, ask)


def test_a_cancelled_run_is_no_timeout(bus):
    async def main():
        entered = asyncio.Event()

        @step(retries=3, backoff=0, timeout=3600)
        async def ask():
            TRIES.append(1)
            entered.set()
            await asyncio.Event().wait()

        async def work():
            async with bus.run(id="run") as run:
                runs.append(run)
                await ask()

        runs = []
        working = asyncio.create_task(work())
        await entered.wait()
        runs[0].cancel("enough")
        with pytest.raises(Cancelled):
            await working

    asyncio.run(main())
    assert TRIES == [1]
    assert found(bus, "run", StepStarted)
    assert found(bus, "run", StepFailed) == []


# What is refused where it is declared


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"retries": -1}, "retries= says how often"),
        ({"retries": 1.5}, "retries= says how often"),
        ({"retries": 1, "backoff": -1}, "backoff= is a number"),
        ({"retries": 1, "backoff": "1"}, "backoff= is a number"),
        ({"retries": 1, "backoff": float("nan")}, "backoff= is a number"),
        ({"timeout": 0}, "timeout= is a number of seconds above 0"),
        ({"timeout": "1"}, "timeout= is a number of seconds above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, fault):
    async def ask():
        pytest.fail("it is not called")

    with pytest.raises(StepError, match=fault):
        step(**options)(ask)


def test_a_timeout_of_a_sync_step_is_refused_with_the_reason():
    with pytest.raises(StepError, match=r"needs an async function.* which nothing can interrupt"):
        step(timeout=1)(lambda: Chunk("a"))
