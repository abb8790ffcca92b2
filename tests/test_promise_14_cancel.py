"""Promise 14, cancelling from anywhere: by its id, wherever the run is; and one that has ended says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from typing import Any

import pytest
from helpers import TIMEOUT, in_thread, quiet_bus

import crewbus
from crewbus import (
    Bus,
    Chunk,
    MemoryStore,
    Retracted,
    RunCancelled,
    RunCancelledError,
    RunError,
    RunNotFoundError,
    RunSuspendedError,
    Store,
)
from crewbus.durability import CHANNEL, request
from crewbus.stores import Claim, StoredEvent
from crewbus.streams import Cursor


class SharedStore(MemoryStore):
    """As if another process could use it: requests come through the mailboxes alone."""

    is_shared = True


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def bus(store):
    with quiet_bus() as bus:
        bus.enable_recording(store)
        yield bus


def names(bus: Bus, run_id: str) -> list[str]:
    return [type(envelope.event).__name__ for envelope in bus.record_of(run_id)]


def agent(bus: Bus, begun: threading.Event | None = None) -> None:
    """Work that ends only when it is stopped."""
    bus.chunk("a")
    if begun is not None:
        begun.set()
    while True:
        crewbus.current_run(bus).check()  # type: ignore[union-attr]


def working(bus: Bus, enter: Callable[[], Any]) -> Any:
    """A future of work in a run, which has begun."""
    begun = threading.Event()

    def work() -> None:
        with enter():
            agent(bus, begun)

    future = in_thread(work)
    assert begun.wait(TIMEOUT)
    return future


def suspended(bus: Bus, run_id: str) -> None:
    with suppress(RunSuspendedError), bus.run(id=run_id) as run:
        bus.chunk("a")
        run.suspend("a deploy")
        run.check()


def crashed(store: MemoryStore, run_id: str) -> None:
    """Leave a run as a process does that dies."""
    bus = Bus(entry_points=False)
    bus.enable_recording(store)
    bus.run(id=run_id).start()
    bus.runs[0].chunk("a")
    store.release(run_id, 1)


def planted(store: Store, run_id: str) -> None:
    data = b'{"name":"planted","tags":{},"parent_run":null,"key":null}'
    store.create(run_id, [StoredEvent(run_id, 0, None, 1.0, None, 1, "crewbus.RunStarted", 1, data)])


# In this process


def test_promise_14_a_run_of_this_bus_is_cancelled_at_once(bus):
    future = working(bus, lambda: bus.run(id="r"))
    assert bus.cancel("r", "enough") == "running"
    with pytest.raises(RunCancelledError, match="enough"):
        future.result(TIMEOUT)
    assert bus.records.info("r").reason == "enough"


def test_promise_14_one_that_ends_before_cancel_returns_was_running(bus, monkeypatch):
    future = working(bus, lambda: bus.run(id="r"))
    cancel = crewbus.Run.cancel

    def cancel_and_wait(run, reason):
        cancel(run, reason)
        wait([future], TIMEOUT)

    monkeypatch.setattr(crewbus.Run, "cancel", cancel_and_wait)
    assert bus.cancel("r", "enough") == "running"
    assert future.done()


def test_promise_14_so_is_one_that_is_not_recorded_or_is_nested():
    with quiet_bus() as bus:
        future = working(bus, lambda: bus.run(id="r"))
        assert bus.cancel("r") == "running"
        with pytest.raises(RunCancelledError):
            future.result(TIMEOUT)
        with bus.run(), pytest.raises(RunCancelledError), bus.run(id="inner") as inner:
            assert bus.cancel("inner") == "running"
            inner.check()


def test_promise_14_so_is_one_of_another_bus_with_the_same_store(bus, store):
    future = working(bus, lambda: bus.run(id="r"))
    with quiet_bus() as other:
        other.recording.use_store(store)
        assert other.cancel("r", "enough") == "running"
        with pytest.raises(RunCancelledError, match="enough"):
            future.result(TIMEOUT)
        assert not store.posted("r")


def test_promise_14_from_an_event_loop(bus):
    async def main() -> None:
        async def waits() -> None:
            async with bus.run(id="r"):
                await asyncio.sleep(2 * TIMEOUT)

        task = asyncio.create_task(waits())
        while not bus.runs:
            await asyncio.sleep(0)
        assert await bus.acancel("r") == "running"
        with pytest.raises(RunCancelledError):
            await asyncio.wait_for(task, TIMEOUT)

    asyncio.run(main())


# Where nobody holds it


@pytest.mark.parametrize("state", ["suspended", "interrupted"])
def test_promise_14_a_run_that_was_left_off_ends_as_cancelled(bus, store, state):
    if state == "suspended":
        suspended(bus, "r")
    else:
        crashed(store, "r")
    assert bus.records.info("r").state == state
    assert bus.cancel("r", "not needed") == state
    info = bus.records.info("r")
    assert (info.state, info.reason, info.holder) == ("cancelled", "not needed", None)
    assert store.info("r").sealed
    assert names(bus, "r")[-2:] == ["RunResumed", "RunCancelled"]
    assert bus.cancel("r") == "cancelled"
    with pytest.raises(RunCancelledError, match="not needed"):
        bus.result("r", timeout=TIMEOUT)


def test_promise_14_a_run_that_never_started_never_starts(bus, store):
    planted(store, "r")
    bus.cancel("r", "too late")
    assert names(bus, "r") == ["RunStarted", "RunCancelled"]
    assert bus.records.info("r").state == "cancelled"
    assert not store.claim(Claim())


@pytest.mark.parametrize("state", ["finished", "failed", "cancelled"])
def test_promise_14_a_run_that_has_ended_says_so(bus, state):
    with suppress(ValueError, RunCancelledError), bus.run(id="r") as run:
        if state == "failed":
            raise ValueError("broken")
        if state == "cancelled":
            run.cancel("before")
    before = names(bus, "r")
    assert bus.cancel("r", "again") == state
    assert names(bus, "r") == before


def test_promise_14_it_follows_a_suspension_for_those_who_wait(bus):
    suspended(bus, "r")
    with bus.subscribe("r", after="start") as stream:
        reader = in_thread(list, stream)
        bus.cancel("r", "enough")
        assert [frame.event for frame in reader.result(TIMEOUT)] == [Chunk("a"), RunCancelled("enough")]


def test_promise_14_a_consumer_that_saw_more_than_the_record_has_gets_the_end_too(bus, store):
    """The end takes a number under which the dead process may have streamed something else."""
    crashed(store, "r")
    with bus.subscribe("r", after="start") as stream:
        list(stream)
        seen = Cursor.parse(stream.cursor)
    ahead = str(Cursor(seen.seq + 1, seen.epoch, seen.record, seen.floor))
    bus.cancel("r")
    with bus.subscribe("r", after=ahead) as stream:
        assert [type(frame.event) for frame in stream] == [Retracted, RunCancelled]


def test_promise_14_what_can_t_be_cancelled(bus, store):
    with pytest.raises(RunNotFoundError):
        bus.cancel("nobody")
    with suppress(RunSuspendedError), bus.run(id="r") as run, bus.run(id="inner"):
        run.suspend()
        run.check()
    with pytest.raises(RunError, match="nested in run r"):
        bus.cancel("inner")
    with pytest.raises(RunError, match="text"):
        bus.cancel("r", 7)  # type: ignore[arg-type]


# Where another process holds it


def test_promise_14_the_holder_acts_on_a_message_in_the_mailbox():
    store = SharedStore()
    with quiet_bus() as bus:
        bus.enable_recording(store)
        future = working(bus, lambda: bus.run(id="r"))
        other = working(bus, lambda: bus.run(id="other"))
        store.post("other", "tests.channel", b"no request")
        store.post("r", CHANNEL, b"damaged")
        store.post("r", CHANNEL, request("enough", 1))
        with pytest.raises(RunCancelledError, match="enough"):
            future.result(TIMEOUT)
        assert [run.id for run in bus.runs] == ["other"]
        bus.cancel("other")
        with pytest.raises(RunCancelledError):
            other.result(TIMEOUT)


def test_promise_14_the_holder_is_asked_through_the_mailbox(bus, store, monkeypatch):
    future = working(bus, lambda: bus.run(id="r"))
    with quiet_bus() as other:
        other.recording.use_store(store)
        monkeypatch.setattr(crewbus.bus.cancellation, "_everywhere", set())
        assert other.cancel("r", "enough") == "running"
    ((number, channel, data, key, _),) = store.posted("r")
    assert (number, channel, data, key) == (0, CHANNEL, request("enough", 1), None)
    bus.cancel("r")
    with pytest.raises(RunCancelledError):
        future.result(TIMEOUT)


def test_promise_14_a_run_that_is_resumed_looks_into_its_mailbox_before_its_first_step(bus, store):
    crashed(store, "r")
    store.post("r", CHANNEL, request("enough", 1))
    with pytest.raises(RunCancelledError, match="enough"), bus.resume("r"):
        pytest.fail("it went on")
    assert bus.records.info("r").state == "cancelled"


def test_promise_14_what_asked_for_the_end_of_a_run_that_ended_is_over(bus, store):
    """Whoever resumes a cancelled or failed run wants it to go on, also if its process dies then."""
    with suppress(ValueError), bus.run(id="r"):
        store.post("r", CHANNEL, request("enough", 1))
        raise ValueError("failed meanwhile")
    with suppress(RunSuspendedError), bus.resume("r") as run:
        run.suspend()
        run.check()
    with bus.resume("r"):
        bus.chunk("a")
    assert bus.records.info("r").state == "finished"


def test_promise_14_a_request_to_a_holder_that_died_counts_for_the_next(bus, store):
    with suppress(RunCancelledError), bus.run(id="r") as run:
        run.cancel("first")
    with suppress(RunSuspendedError), bus.resume("r") as run:
        store.post("r", CHANNEL, request("second", 2))
        run.suspend()
        run.check()
    with pytest.raises(RunCancelledError, match="second"), bus.resume("r"):
        pytest.fail("it went on")


class Taking(MemoryStore):
    """Another process resumes each run right before it is acquired here."""

    def acquire(self, root_id: str) -> int:
        super().acquire(root_id)
        return super().acquire(root_id)


def test_promise_14_a_run_that_is_taken_meanwhile_is_asked_for_instead():
    with quiet_bus() as bus:
        bus.enable_recording(store := Taking())
        suspended(bus, "r")
        assert bus.cancel("r", "enough") == "running"
        assert [posted.data for posted in store.posted("r")] == [request("enough", 2)]


class Ending(MemoryStore):
    """The holder ends each run right before a message arrives."""

    def post(self, root_id: str, channel: str, data: bytes, key: str | None = None) -> int:
        self.append(root_id, 1, StoredEvent(root_id, 1, None, 1.0, None, 1, "crewbus.RunFinished", 1, b"{}"))
        self.finish(root_id, 1)
        return super().post(root_id, channel, data, key)


def test_promise_14_a_run_that_ends_meanwhile_says_so():
    with quiet_bus() as bus:
        bus.enable_recording(store := Ending())
        store.append("r", store.begin("r"), StoredEvent("r", 0, None, 1.0, None, 1, "crewbus.RunStarted", 1, b"{}"))
        assert bus.cancel("r") == "finished"
        assert not store.posted("r")


def test_promise_14_a_run_that_is_cancelled_while_it_is_resumed_ends_as_cancelled(bus, store, monkeypatch):
    """Between its start and the record of its resume, as by the thread that looks for requests."""
    suspended(bus, "r")

    @bus.on(crewbus.RunStarted)
    def cancel(_: crewbus.Envelope) -> None:
        assert in_thread(bus.cancel, "r", "enough").result(TIMEOUT) == "running"

    with pytest.raises(RunCancelledError, match="enough"), bus.resume("r"):
        pytest.fail("it went on")
    assert names(bus, "r")[-2:] == ["RunResumed", "RunCancelled"]
    assert store.info("r").sealed
