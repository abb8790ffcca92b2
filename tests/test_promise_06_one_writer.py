"""Promise 6: of several processes that take a run exactly one continues; the others get an error before they write."""

from __future__ import annotations

import contextlib
import threading

import pytest
from helpers import TIMEOUT, Noted, in_threads

import crewbus

REPETITIONS = 25


class Stopped(BaseException):
    """What stops a run half-way, as a signal would."""


@pytest.fixture(params=["memory", "sqlite"])
def another_bus(request, tmp_path):
    """Gives buses, each as if of a process of its own, that record to the same place."""
    memory, buses = crewbus.MemoryStore(), []

    def make():
        bus = crewbus.Bus(entry_points=False)
        buses.append(bus)
        if request.param == "memory":
            bus.enable_recording(memory)
        else:
            sqlite = pytest.importorskip("crewbus_sqlite", reason="needs crewbus-sqlite")
            bus.enable_recording(sqlite.SQLiteStore(tmp_path / "crewbus.db"))
        return bus

    yield make
    for bus in buses:
        bus.close()


def stop_half_way(bus, run_id):
    with pytest.raises(Stopped), bus.run("worker", id=run_id) as run:
        run.step("first", lambda: 1)
        raise Stopped
    bus.flush()


def test_promise_06_of_many_that_resume_a_run_at_once_one_succeeds(another_bus):
    recorder, buses = another_bus(), [another_bus() for _ in range(4)]
    for repetition in range(REPETITIONS):
        run_id = f"run {repetition}"
        stop_half_way(recorder, run_id)
        executed, tried = [], threading.Barrier(len(buses))

        def resume(i, run_id=run_id, executed=executed, tried=tried):
            try:
                with buses[i].resume(run_id) as run:
                    tried.wait(TIMEOUT)
                    assert run.step("first", lambda: executed.append("first")) == 1
                    return run.step("second", lambda: executed.append("second") or 2)
            except crewbus.RunHeldError as error:
                tried.wait(TIMEOUT)
                return str(error)

        outcomes = in_threads(len(buses), resume)
        assert [outcome for outcome in outcomes if not isinstance(outcome, str)] == [2]
        assert executed == ["second"]
        assert all(run_id in outcome for outcome in outcomes if isinstance(outcome, str))
        steps = [one.event.name for one in recorder.record_of(run_id) if isinstance(one.event, crewbus.StepFinished)]
        assert steps == ["first", "second"]


def test_promise_06_a_process_that_lost_a_run_gets_an_error_before_it_writes(another_bus):
    old, new = another_bus(), another_bus()
    with pytest.raises(crewbus.FencedError, match="taken over"), old.run(id="lost") as run:
        run.step("first", lambda: 1)
        old.store.revoke("lost")
        with new.resume("lost") as taken:
            assert taken.step("first", lambda: "again") == 1
            with pytest.raises(crewbus.FencedError, match="taken over"):
                run.step("second", lambda: "of the old")
            with pytest.raises(crewbus.FencedError, match="taken over"):
                run.emit(Noted("of the old"))
                old.flush()
            assert taken.step("second", lambda: "of the new") == "of the new"
    with contextlib.suppress(crewbus.FencedError):  # a store with a thread of its own raises it in a flush too
        old.flush()
    results = [one.event.result for one in new.record_of("lost") if isinstance(one.event, crewbus.StepFinished)]
    assert results == [1, "of the new"]
    numbers = [one.seq for one in new.record_of("lost")]
    assert numbers == list(range(len(numbers)))


def test_promise_06_a_run_is_not_resumed_while_it_is_alive(another_bus):
    one, other = another_bus(), another_bus()
    with one.run(id="alive"):
        one.flush()
        for bus in (one, other):
            with pytest.raises(crewbus.RunHeldError, match="alive"), bus.resume("alive"):
                pass
