"""`Bus.recover`: a program that starts resumes what processes that ended left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from contextlib import suppress
from functools import partial

import pytest
from helpers import TIMEOUT, in_threads, quiet_bus
from lifecycle_helpers import until
from recorded_helpers import needs_sqlite, spawn

import crewbus
from crewbus.stores import StoredEvent

DAY = 86_400.0


@pytest.fixture
def store():
    return crewbus.MemoryStore()


@pytest.fixture
def another(store):
    """Gives buses that record to the same place, each as if of a process of its own."""
    buses = []

    def make():
        bus = crewbus.Bus(entry_points=False)
        bus.enable_recording(store)
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        with suppress(crewbus.FencedError):
            bus.close()


@pytest.fixture
def dead(another):
    """A process that begins runs and dies in the middle of them."""
    bus = another()

    def leave(run_id, name="crew", **tags):
        def half():
            run = bus.run(name, id=run_id, tags=tags)
            run.__enter__()
            run.step("first", lambda: 1)
            bus.flush()
            bus.store.release(run_id, 1)

        thread = threading.Thread(target=half)
        thread.start()
        thread.join()

    return leave


def crew(done, name="crew"):
    run = crewbus.current_run()
    assert run.step("first", lambda: pytest.fail("it is recorded")) == 1
    done.append((name, run.id))
    return f"{name} of {run.id}"


def test_what_was_left_behind_goes_on_by_the_names_of_the_runs(another, dead):
    for run_id, name in (("a", "crew"), ("b", "flow"), ("c", "crew"), ("d", "other"), ("e", None)):
        dead(run_id, name)
    bus, done = another(), []
    with bus.run("crew", id="finished"):
        pass
    with suppress(ZeroDivisionError), bus.run("crew", id="failed"):
        1 / 0  # noqa: B018
    recovery = bus.recover({"crew": partial(crew, done), "flow": partial(crew, done, "flow")})
    assert [stream.result(TIMEOUT) for stream in recovery.streams] == ["crew of a", "flow of b", "crew of c"]
    assert sorted(done) == [("crew", "a"), ("crew", "c"), ("flow", "b")]
    assert [info.id for info in recovery.unknown] == ["d", "e"]
    assert recovery.refused == {}
    assert [bus.records.info(run_id).state for run_id in "abcde"] == ["finished"] * 3 + ["interrupted"] * 2
    assert bus.recover({"crew": partial(crew, done)}).streams == []


def test_a_function_may_choose_what_a_run_calls(another, dead):
    dead("a", tenant="7")
    dead("b", tenant="8")
    bus, done = another(), []

    def choose(info):
        return partial(crew, done, info.tags["tenant"]) if info.tags["tenant"] == "7" else None

    recovery = bus.recover(choose)
    assert [stream.result(TIMEOUT) for stream in recovery.streams] == ["7 of a"]
    assert [info.id for info in recovery.unknown] == ["b"]


def test_async_functions_go_on_on_the_loop(another, dead):
    dead("a")
    dead("b")
    bus = another()

    async def work():
        run = crewbus.current_run()
        run.step("first", int)
        await run.step("second", asyncio.sleep, 0)
        loops.append(asyncio.get_running_loop())
        return run.id

    async def main():
        with pytest.raises(crewbus.ConsumptionError, match="await bus"):
            bus.recover({})
        recovery = await bus.arecover({"crew": work})
        assert [await stream.aresult() for stream in recovery.streams] == ["a", "b"]
        assert loops == [asyncio.get_running_loop()] * 2

    loops = []
    asyncio.run(main())


def test_suspended_runs_go_on_when_they_are_due(another):
    bus, done = another(), []
    for run_id, due in (("now", None), ("soon", time.time() - 1), ("later", time.time() + DAY)):
        with suppress(crewbus.RunSuspendedError), bus.run("crew", id=run_id) as run:
            run.step("first", lambda: 1)
            run.suspend("deployed", until=due)
            run.step("second", lambda: pytest.fail("it is suspended"))
    bus.flush()
    assert {bus.records.info(run_id).state for run_id in ("now", "soon", "later")} == {"suspended"}
    recovery = another().recover({"crew": partial(crew, done)})
    assert [stream.result(TIMEOUT) for stream in recovery.streams] == ["crew of now", "crew of soon"]
    assert another().recover({"crew": partial(crew, done)}, states=["interrupted"]).streams == []


def test_failed_and_cancelled_runs_go_on_if_asked_for(another):
    bus = another()
    with suppress(ZeroDivisionError), bus.run("crew", id="failed"):
        1 / 0  # noqa: B018
    with suppress(crewbus.RunCancelledError), bus.run("crew", id="cancelled") as run:
        run.cancel()
    assert bus.recover({"crew": int}).streams == []
    recovery = bus.recover({"crew": int}, states=("failed", "cancelled"))
    assert [stream.result(TIMEOUT) for stream in recovery.streams] == [0, 0]


def test_the_oldest_go_on_first_up_to_a_limit(another, dead):
    for run_id in "abc":
        dead(run_id)
    bus = another()
    for expected in (["a", "b"], ["c"], []):
        recovery = bus.recover({"crew": lambda: crewbus.current_run().step("first", int)}, limit=2)
        assert [stream.run.id for stream in recovery.streams] == expected
        for stream in recovery.streams:
            stream.result(TIMEOUT)


def test_what_is_not_due_never_started_or_is_stuck_is_left_alone(another, store, dead):
    for run_id in ("due", "later", "stuck"):
        dead(run_id)
    store.release("later", store.acquire("later"), time.time() + DAY)
    for _ in range(6):
        store.release("stuck", store.acquire("stuck"))
    start = next(store.read("due"))
    store.create("queued", [start._replace(run_id="queued")])
    store.fork("due", 2, "fork", [])
    bus = another()
    recovery = bus.recover({"crew": lambda: crewbus.current_run().step("first", int)})
    assert [stream.run.id for stream in recovery.streams] == ["due"]
    assert recovery.streams[0].result(TIMEOUT) == 1
    assert (recovery.unknown, recovery.refused) == ([], {})


def test_of_many_that_recover_at_once_one_takes_each_run(another, dead):
    ids = [f"run {number}" for number in range(30)]
    for run_id in ids:
        dead(run_id)
    buses, done, barrier = [another() for _ in range(4)], [], threading.Barrier(4)

    def recover(i):
        barrier.wait(TIMEOUT)
        recovery = buses[i].recover({"crew": partial(crew, done)})
        for stream in recovery.streams:
            stream.result(TIMEOUT)
        assert all(isinstance(error, crewbus.RunHeldError) for error in recovery.refused.values())
        return len(recovery.streams)

    assert sum(in_threads(4, recover)) == len(ids)
    assert sorted(run_id for _, run_id in done) == sorted(ids)


@pytest.mark.parametrize("outcome", ["fails", "finishes", "goes on"])
def test_a_run_that_another_took_since_it_was_found_is_not_taken_again(another, dead, outcome):
    dead("a")
    dead("b")
    bus, other = another(), another()

    def choose(info):
        if info.id == "a":
            run = other.resume("a")
            run.__enter__()
            run.step("first", int)
            if outcome != "goes on":
                run.__exit__(*((None,) * 3 if outcome == "finishes" else (ValueError, ValueError("x"), None)))
        return lambda: crewbus.current_run().step("first", int)

    found = []
    thread = threading.Thread(target=lambda: found.append(bus.recover(choose)))
    thread.start()
    thread.join(TIMEOUT)
    (recovery,) = found
    assert [stream.run.id for stream in recovery.streams] == ["b"]
    assert [type(error) for error in recovery.refused.values()] == [crewbus.RunHeldError]
    assert list(recovery.refused) == ["a"]
    assert bus.records.info("a").state == {"fails": "failed", "finishes": "finished", "goes on": "running"}[outcome]


def test_a_run_that_can_not_be_resumed_keeps_no_other_from_it(another, store, dead):
    store.append("strange", store.begin("strange"), StoredEvent("strange", 0, None, 1.5, None, 0, "x.Y", 1, b"{}"))
    store.release("strange", 1)
    dead("a")
    recovery = another().recover(lambda _: lambda: crewbus.current_run().step("first", int))
    assert [stream.run.id for stream in recovery.streams] == ["a"]
    assert [type(error) for error in recovery.refused.values()] == [crewbus.CorruptRecordError]
    recovery.streams[0].result(TIMEOUT)


def test_a_recovered_run_goes_on_although_nobody_keeps_its_stream(another, dead):
    dead("a")
    bus, go = another(), threading.Event()

    def work():
        crewbus.current_run().step("first", int)
        assert go.wait(TIMEOUT)
        crewbus.current_run().chunk("text" * 10)

    stream = weakref.ref(bus.recover({"crew": work}).streams[0])
    gc.collect()
    assert stream() is not None
    go.set()
    until(lambda: bus.records.info("a").state == "finished", TIMEOUT)
    until(lambda: gc.collect() is not None and stream() is None, TIMEOUT)


def test_closing_the_bus_ends_recovered_runs_as_those_of_other_streams(another, dead):
    dead("a")
    bus = another()

    def work():
        run = crewbus.current_run()
        run.step("first", int)
        while True:
            run.chunk("text")

    recovery = bus.recover({"crew": work})
    bus.close()
    assert recovery.streams[0].run.state == "cancelled"
    with pytest.raises(crewbus.BusClosedError):
        bus.recover({"crew": int}, states=("cancelled",))


@pytest.mark.parametrize("states", ["failed", ("running",), ("finished",), ("odd",)])
def test_states_that_can_not_be_resumed_are_refused(another, states):
    with pytest.raises(crewbus.InputError, match="interrupted, suspended, failed or cancelled"):
        another().recover({}, states=states)


def test_what_can_not_be_called_is_refused(another, dead):
    dead("a")
    for functions in ({"crew": "agents:crew"}, lambda _: "agents:crew"):
        with pytest.raises(crewbus.TargetError):
            another().recover(functions)


# Leases

HOLDER = """
    import sys
    import crewbus
    from crewbus.stores.liveness import LockFiles
    from crewbus_sqlite import SQLiteStore
    LockFiles.hold = lambda *_: None  # as where files can't be locked: others only see the lease
    bus = crewbus.Bus(entry_points=False)
    bus.enable_recording(SQLiteStore({path!r}, lease=1.0))
    with bus.run("crew", id={run_id!r}) as run:
        run.step("first", lambda: 1)
        print("begun", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def holding(tmp_path):
    processes = []

    def start(run_id):
        process = spawn(HOLDER.format(path=str(tmp_path / "runs.db"), run_id=run_id))
        processes.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@needs_sqlite
@pytest.mark.parametrize("is_async", [False, True])
def test_leases_that_may_be_those_of_dead_processes_are_waited_for(tmp_path, holding, is_async):
    from crewbus_sqlite import SQLiteStore

    gone, _ = holding("gone"), holding("alive")
    os.kill(gone.pid, signal.SIGKILL)
    gone.wait()
    functions = {"crew": lambda: crewbus.current_run().step("first", int)}
    with quiet_bus() as bus:
        bus.enable_recording(SQLiteStore(tmp_path / "runs.db"))
        assert bus.records.info("gone").state == "running"  # as far as anybody can see
        assert bus.recover(functions, wait=False).streams == []
        recovery = asyncio.run(bus.arecover(functions)) if is_async else bus.recover(functions)
        assert [stream.run.id for stream in recovery.streams] == ["gone"]
        assert recovery.streams[0].result(TIMEOUT) == 1
        assert bus.records.info("alive").state == "running"
