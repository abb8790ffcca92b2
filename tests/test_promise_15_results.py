"""Promise 15, results for any process: the end of a recorded run has its result, and whoever asks gets it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import suppress
from functools import partial

import attrs
import pytest
from helpers import TIMEOUT, in_thread, quiet_bus
from recorded_helpers import DISKS, Disk, HeldStore, Mortal, found

import crewbus
from crewbus import (
    BusClosedError,
    Cancelled,
    ConsumptionError,
    DecodeError,
    ResultTimeoutError,
    RunCancelledError,
    RunError,
    RunFailed,
    RunFailedError,
    RunFinished,
    RunNotFoundError,
    StreamOptions,
    UnserializableError,
)
from crewbus_jsonl import JsonlStore


class MortalJournal(Mortal, JsonlStore):
    pass


def journal(path):
    return Disk(lambda: MortalJournal(path / "runs.jsonl"))


@pytest.fixture(params=[*DISKS, pytest.param(journal, id="journal")])
def disk(request, tmp_path):
    """Where runs are recorded so that another bus, as if of another process, finds them."""
    return request.param(tmp_path)


@crewbus.register_entity
@attrs.define
class Report:
    title: str
    pages: int = 1


@attrs.define
class Draft:
    title: str


class NoJson:
    """What no record can hold."""


@attrs.define
class Lost(Exception):
    """An exception that is not registered."""

    text: str


def streamed(bus, function, run_id="run"):
    with bus.stream(function, options=StreamOptions(id=run_id)) as stream:
        return stream.result(TIMEOUT)


# What is returned, and what is raised


def test_promise_15_what_a_streamed_function_returns_is_there_for_another_process(disk):
    with disk.bus() as bus:
        assert streamed(bus, lambda: {"articles": [1, 2]}) == {"articles": [1, 2]}
        assert bus.result("run") == {"articles": [1, 2]}
    with disk.bus() as bus:
        assert bus.result("run", timeout=TIMEOUT) == {"articles": [1, 2]}
        assert asyncio.run(bus.aresult("run", timeout=TIMEOUT)) == {"articles": [1, 2]}


def test_promise_15_a_with_block_gives_its_run_a_result(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        run.set_result("first")
        run.set_result(Report("trains", 3))
    with disk.bus() as bus:
        assert bus.result("run") == Report("trains", 3)


def test_promise_15_a_run_without_a_result_has_none(disk):
    with disk.bus() as bus, bus.run(id="run"):
        pass
    with disk.bus() as bus:
        assert bus.result("run") is None


def test_promise_15_a_result_is_kept_as_it_was_when_it_was_set(bus):
    articles = ["one"]
    with bus.run(id="run") as run:
        run.set_result(articles)
        articles.append("two")
    assert bus.result("run") == ["one"]


def test_promise_15_a_type_that_is_not_registered_is_read_by_the_annotation(disk):
    def write() -> list[Draft]:
        return [Draft("trains")]

    with disk.bus() as bus:
        assert streamed(bus, write) == [Draft("trains")]
    with disk.bus() as bus:
        assert bus.result("run", returns=list[Draft]) == [Draft("trains")]
        with pytest.raises(DecodeError, match="pass that type as returns="):
            bus.result("run")
        with pytest.raises(DecodeError, match="list"):
            bus.result("run", returns=Draft)


@pytest.mark.parametrize("function", [lambda: [NoJson()], lambda: (1, 2)], ids=["object", "tuple"])
def test_promise_15_a_result_that_would_not_come_back_is_refused_by_name(disk, function):
    with disk.bus() as bus:
        assert type(streamed(bus, function)) in (list, tuple)
        with pytest.raises(UnserializableError, match=r"is a (NoJson|tuple)"):
            bus.result("run")
    with disk.bus() as bus:
        with pytest.raises(UnserializableError, match=r"is a (NoJson|tuple)"):
            bus.result("run")
        assert bus.recorded_runs()[0].state == "finished"


def test_promise_15_a_with_block_is_told_where_it_sets_what_would_not_come_back(bus):
    with pytest.raises(UnserializableError, match="run 'crew': result is a NoJson"), bus.run("crew", id="run") as run:
        run.set_result(NoJson())
    with pytest.raises(UnserializableError):
        bus.result("run")


def test_promise_15_a_result_that_is_too_large_is_refused(disk):
    with disk.bus(max_event_bytes=2048) as bus:
        assert streamed(bus, lambda: "x" * 3000) == "x" * 3000
        with pytest.raises(UnserializableError, match="RunFinished: 3"):
            bus.result("run")
        assert bus.recorded_runs()[0].state == "finished"


def test_promise_15_the_failure_of_a_run_is_raised_as_itself_where_its_type_is_known(disk):
    with disk.bus() as bus, pytest.raises(KeyError), bus.run(id="run"):
        raise KeyError("trains")
    with disk.bus() as bus:
        with pytest.raises(KeyError) as caught:
            bus.result("run")
        assert caught.value.args == ("trains",)
        with pytest.raises(KeyError):
            asyncio.run(bus.aresult("run"))


def test_promise_15_another_failure_is_raised_with_the_name_of_its_type(disk):
    with disk.bus() as bus, pytest.raises(Lost), bus.run(id="run"):
        raise Lost("in the post")
    with disk.bus() as bus, pytest.raises(RunFailedError) as caught:
        bus.result("run")
    error = caught.value
    assert (error.run_id, error.error) == ("run", f"{__name__}.Lost")
    assert "run run failed with" in str(error)


def test_promise_15_a_cancelled_run_raises_that(disk):
    with disk.bus() as bus, pytest.raises(RunCancelledError), bus.run(id="run") as run:
        run.cancel("nobody waits")
        run.chunk("too late")
    with disk.bus() as bus, pytest.raises(RunCancelledError, match="nobody waits"):
        bus.result("run")


def test_promise_15_a_cancelled_run_does_not_fail_for_its_result(bus):
    def work():
        crewbus.current_run().cancel("enough")
        return NoJson()

    with pytest.raises(RunCancelledError, match="enough"):
        streamed(bus, work)
    with pytest.raises(RunCancelledError, match="enough"):
        bus.result("run")


def test_promise_15_a_nested_run_has_its_result_too(disk):
    with disk.bus() as bus, bus.run(id="outer"):
        assert streamed(bus, lambda: 7, "inner") == 7
        assert bus.result("inner") == 7
    with disk.bus() as bus:
        assert bus.result("inner") == 7
        assert bus.result("outer") is None


def test_promise_15_a_resumed_run_gives_its_own_result(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        run.step("one", lambda: 1)
        disk.crash()
    with disk.bus() as bus:
        with pytest.raises(ResultTimeoutError, match="run run has no result after 0 s"):
            bus.result("run", timeout=0)
        with bus.resume("run") as run:
            run.set_result(run.step("one", lambda: pytest.fail("it is recorded")) + 1)
        assert bus.result("run") == 2


def test_promise_15_a_failed_run_that_was_resumed_has_the_result_of_the_second_time(disk):
    with disk.bus() as bus, pytest.raises(ValueError, match="first"), bus.run(id="run"):
        raise ValueError("first")
    with disk.bus() as bus:
        with bus.stream(lambda: "second", options=StreamOptions(resume="run")) as stream:
            assert stream.result(TIMEOUT) == "second"
        assert bus.result("run") == "second"


def test_promise_15_what_is_not_recorded_keeps_nothing():
    value = NoJson()
    events = []
    with quiet_bus() as bus:
        bus.on(RunFinished, lambda envelope: events.append(envelope.event))
        assert streamed(bus, lambda: value) is value
        with bus.run() as run:
            run.set_result(value)
            assert run.written_result is None
        with pytest.raises(RunNotFoundError, match="not recorded"):
            bus.result("run")
    assert events == [RunFinished(), RunFinished()]


def test_promise_15_a_run_that_is_not_running_takes_no_result(bus):
    run = bus.run(id="run")
    with pytest.raises(RunError, match="is not running"):
        run.set_result(1)
    with run:
        pass
    with pytest.raises(RunError, match="is not running"):
        run.set_result(1)
    assert bus.result("run") is None


def test_promise_15_a_nested_result_is_repeated_under_its_number(disk):
    def agent(bus):
        with bus.run("inner", key="a") as inner:
            inner.set_result(inner.step("ask", lambda: "yes"))
        return inner.id

    with disk.bus() as bus, bus.run(id="run"):
        inner = agent(bus)
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run") as run:
            agent(bus)
            run.set_result("done")
        assert bus.result(inner) == "yes"
        ends = found(bus, "run", RunFinished)
        assert [end.event.result for end in ends] == ["yes", "done"]


# Waiting


def ask(bus, *args):
    return bus.result(*args)


def ask_on_a_loop(bus, *args):
    return asyncio.run(bus.aresult(*args))


def waits(bus):
    """Return once somebody waits for a result."""
    begun = threading.Event()
    while not bus._live.listeners:
        begun.wait(0.001)


@pytest.mark.parametrize("ask", [ask, ask_on_a_loop])
def test_promise_15_the_end_of_a_run_of_this_bus_wakes_who_waits(bus, monkeypatch, ask):
    monkeypatch.setattr("crewbus.scopes.waiting._RECHECK", 3600.0)
    go = threading.Event()

    def work():
        with bus.run(id="run") as run:
            started.set()
            assert go.wait(TIMEOUT)
            run.set_result(1)

    started = threading.Event()
    working = in_thread(work)
    assert started.wait(TIMEOUT)
    waiting = in_thread(ask, bus, "run", 3600.0)
    waits(bus)
    go.set()
    assert waiting.result(TIMEOUT) == 1
    working.result(TIMEOUT)


def test_promise_15_an_interrupted_run_is_waited_for_until_somebody_resumes_it(disk):
    with disk.bus() as bus, bus.run(id="run"):
        disk.crash()
    with disk.bus() as bus:
        waiting = in_thread(bus.result, "run", TIMEOUT)
        waits(bus)
        with bus.resume("run") as run:
            run.set_result("resumed")
        assert waiting.result(TIMEOUT) == "resumed"


def test_promise_15_a_suspended_run_is_waited_for_until_somebody_resumes_it(disk):
    with disk.bus() as bus, suppress(BaseException), bus.run(id="run") as run:
        run.suspend()
        run.chunk("never")
    with disk.bus() as bus:
        with pytest.raises(ResultTimeoutError):
            bus.result("run", timeout=0)
        waiting = in_thread(bus.result, "run", TIMEOUT)
        waits(bus)
        with bus.resume("run") as run:
            run.set_result("resumed")
        assert waiting.result(TIMEOUT) == "resumed"


def test_promise_15_a_run_that_was_cancelled_from_elsewhere_raises_that(disk):
    with disk.bus() as bus, bus.run(id="run"):
        disk.crash()
    with disk.bus() as bus:
        waiting = in_thread(bus.result, "run", TIMEOUT)
        waits(bus)
        bus.cancel("run", "not wanted")
        with pytest.raises(RunCancelledError, match="not wanted"):
            waiting.result(TIMEOUT)


def test_promise_15_a_timeout_ends_the_wait_and_the_run_continues(bus):
    with bus.run(id="run") as run:
        asked = in_thread(partial(bus.result, "run", timeout=0.01))
        with pytest.raises(ResultTimeoutError, match=r"after 0\.01 s"):
            asked.result(TIMEOUT)
        run.set_result(1)
    assert bus.result("run") == 1


def test_promise_15_an_unknown_run_is_not_waited_for(bus):
    with pytest.raises(RunNotFoundError):
        bus.result("nobody")
    with pytest.raises(RunNotFoundError):
        asyncio.run(bus.aresult("nobody"))


def test_promise_15_a_loop_is_not_blocked(bus):
    async def main():
        with pytest.raises(ConsumptionError, match="aresult"):
            bus.result("run")
        context = contextvars.copy_context()
        async with bus.run(id="run") as run:
            asked = asyncio.create_task(bus.aresult("run", TIMEOUT), context=context)
            while not bus._live.listeners:
                await asyncio.sleep(0)
            run.set_result("here")
        return await asked

    assert asyncio.run(main()) == "here"


def test_promise_15_a_run_does_not_wait_for_itself(bus):
    with bus.run(id="outer"), bus.run(id="inner"):
        for run_id in ("inner", "outer"):
            with pytest.raises(ConsumptionError, match="can't wait for its own result"):
                bus.result(run_id)


def test_promise_15_closing_the_bus_ends_the_wait():
    with quiet_bus() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        store = bus.store
        epoch = store.begin("elsewhere")
        store.append("elsewhere", epoch, started("elsewhere"))
        waiting = in_thread(bus.result, "elsewhere")
        waits(bus)
    with pytest.raises(BusClosedError, match="elsewhere"):
        waiting.result(TIMEOUT)
    with pytest.raises(BusClosedError):
        bus.result("elsewhere")


def started(run_id):
    return crewbus.StoredEvent(run_id, 0, None, 1.5, None, 1, "crewbus.RunStarted", 1, b'{"name":null}')


def test_promise_15_cancelling_the_run_that_waits_ends_the_wait(bus):
    epoch = bus.store.begin("elsewhere")
    bus.store.append("elsewhere", epoch, started("elsewhere"))
    runs = []

    def work():
        with bus.run() as run:
            runs.append(run)
            bus.result("elsewhere")

    working = in_thread(work)
    waits(bus)
    runs[0].cancel("no longer wanted")
    with pytest.raises(Cancelled, match="no longer wanted"):
        working.result(TIMEOUT)


def test_promise_15_a_result_is_on_disk_when_it_is_returned():
    store = HeldStore()
    with quiet_bus() as bus:
        bus.enable_recording(store)
        with bus.run(id="run") as run:
            run.set_result(1)
        store.holds = True
        waiting = in_thread(bus.result, "run")
        assert store.asked.wait(TIMEOUT)
        assert not waiting.done()
        store.let()
        assert waiting.result(TIMEOUT) == 1


def test_promise_15_a_consumer_that_waits_for_the_result_does_not_hold_up_the_run(bus):
    """The emitter does not wait for room that only the thread could make that waits for the emitter's run."""

    def work():
        for _ in range(7):  # more than the stream holds, less than twice as much
            crewbus.chunk("text")
        return "done"

    with bus.stream(work, options=StreamOptions(id="run", bound=4)) as stream:
        next(iter(stream))
        assert bus.result("run", TIMEOUT) == "done"


def test_promise_15_the_failure_in_the_event_is_not_shown(bus):
    with pytest.raises(ValueError, match="x"), bus.run(id="run"):
        raise ValueError("x")
    (end,) = found(bus, "run", RunFailed)
    assert end.event == RunFailed("builtins.ValueError", "x")
    assert "value" not in repr(end.event)
