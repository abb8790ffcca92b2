"""Promise 6: of several processes that take a run exactly one continues; the others get an error before they write."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest
from helpers import TIMEOUT, Noted, in_threads
from lifecycle_helpers import until
from recorded_helpers import spawn

import crewbus
from crewbus.stores import Claim, LogFilter
from crewbus_jsonl import JsonlStore

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


# A holder that is stopped, and may come back: the one of a journal, which has no leases but those that its file shows

JOURNALLED = """
    import sys
    from crewbus.stores import StoredEvent
    from crewbus_jsonl import JsonlStore
    store = JsonlStore({path!r}, lease=0.3)
    epoch = store.begin("a")
    for seq in range(3):
        store.append("a", epoch, StoredEvent("a", seq, None, 1.5, None, 0, "tests.Noted", 1, b"{{}}"))
    print("begun", flush=True)
    for line in sys.stdin:
        try:
            said = store.confirm("a", epoch) if line == "confirm\\n" else store.has_lease("a", epoch)
        except Exception as error:
            said = type(error).__name__
        print(said, flush=True)
"""
STATES = ("running", "interrupted")


@pytest.fixture
def journal(tmp_path):
    """A journal, and a process that holds the run ``a`` in it and answers questions."""
    process = spawn(JOURNALLED.format(path=str(tmp_path / "records.jsonl")))
    assert process.stdout.readline() == "begun\n"
    yield JsonlStore(tmp_path / "records.jsonl"), process
    process.kill()
    process.communicate()


def told(process, question):
    process.stdin.write(f"{question}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def found(store):
    return [[one.info.root_id for one in store.find(LogFilter(frozenset({state})))] for state in STATES]


needs_stops = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="there is no SIGSTOP here")


@needs_stops
def test_promise_06_a_stopped_holder_of_a_journal_that_comes_back_goes_on(journal):
    store, process = journal
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: not store.info("a").alive, TIMEOUT)
    assert found(store) == [[], ["a"]]
    assert store.summary("a").state == "interrupted"
    assert [one.state for one in store.find(LogFilter(limit=1))] == ["interrupted"]
    os.kill(process.pid, signal.SIGCONT)
    until(lambda: store.info("a").alive, TIMEOUT)
    assert told(process, "ask") == "False"
    assert told(process, "confirm") == "None"
    process.kill()
    process.wait()
    assert found(store) == [[], ["a"]]
    assert store.acquire("a") == 2
    store.close()


@needs_stops
@pytest.mark.parametrize("way", ["acquire", "claim", "drop"])
def test_promise_06_a_stopped_holder_of_a_journal_loses_its_runs(journal, way):
    store, process = journal
    store.create("b", [crewbus.StoredEvent("b", 0, None, 1.5, None, 0, "tests.Noted", 1, b"{}")])
    assert store.claim(Claim(tags={"no": frozenset()})) == []
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: not store.info("a").alive, TIMEOUT)
    if way == "claim":
        assert store.claim(Claim(tags={"no": frozenset()})) == []
        assert store.claim(Claim(limit=5)) == [("a", 2), ("b", 1)]
    else:
        getattr(store, way)("a")
    os.kill(process.pid, signal.SIGCONT)
    if way != "drop":
        until(lambda: told(process, "confirm") == "FencedError", TIMEOUT)
        assert told(process, "ask") == "False"
        assert store.info("a").alive
    else:
        assert store.roots() == ["b"]
    store.close()
