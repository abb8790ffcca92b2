"""Law 7: the work of a run that another process has taken is stopped, also while it does not emit."""

from __future__ import annotations

import asyncio
import threading

import pytest
from helpers import TIMEOUT
from lifecycle_helpers import until

import crewbus
from crewbus import MemoryStore

TAKER = "process 7 on elsewhere"


class TellsOfLosses(MemoryStore):
    """As a store that other processes share: it says when one of them has taken a log."""

    is_shared = True

    def __init__(self):
        super().__init__()
        self.told = []

    def on_lost(self, notify):
        self.told.append(notify)
        return lambda: self.told.remove(notify)

    def lose(self, run_id, epoch=1):
        """As if another process had taken it."""
        until(lambda: self.told)
        self.revoke(run_id)
        self.acquire(run_id)
        for notify in self.told:
            notify(run_id, epoch, crewbus.FencedError(f"run {run_id} was taken over by {TAKER}"))


@pytest.fixture
def store():
    return TellsOfLosses()


class Observer:
    def __init__(self):
        self.ends = []

    @crewbus.hookimpl
    def crewbus_emit(self, envelope):
        if isinstance(envelope.event, crewbus.RunEnded):
            self.ends.append(envelope.event)


@pytest.fixture
def observer():
    return Observer()


@pytest.fixture
def bus(store, observer):
    with crewbus.Bus(entry_points=False, plugins=[observer]) as made:
        made.enable_recording(store)
        yield made


def test_an_idle_task_is_interrupted_and_observers_see_why(bus, store, observer):
    async def work():
        async with bus.run(id="a"):
            await asyncio.to_thread(store.lose, "a")
            await asyncio.Event().wait()

    with pytest.raises(crewbus.FencedError, match="run a was taken over"):
        asyncio.run(asyncio.wait_for(work(), TIMEOUT))
    assert [type(event) for event in observer.ends] == [crewbus.RunFailed]
    assert observer.ends[0].error == "crewbus.exceptions.FencedError"
    assert TAKER in observer.ends[0].message
    assert [event.name for event in store.read("a")] == ["crewbus.RunStarted"]


def test_a_long_step_is_stopped_at_its_next_call(bus, store):
    seen = []

    def long():
        store.lose("a")
        until(lambda: run.stop is not None)
        try:
            run.check()
        except crewbus.Cancelled as error:
            seen.append(str(error))
            raise

    with pytest.raises(crewbus.FencedError, match="run a was taken over"), bus.run(id="a") as run:
        run.step("long", long)
    assert [TAKER in text for text in seen] == [True]
    assert run.state == "failed"


def test_the_loss_of_an_earlier_epoch_stops_nothing(bus, store):
    with pytest.raises(ZeroDivisionError), bus.run(id="a"):
        raise ZeroDivisionError
    with bus.resume("a") as run:
        until(lambda: store.told)
        looked = threading.Event()
        mail = store.mail
        store.mail = lambda after: (looked.set(), mail(after))[1]
        for notify in store.told:
            notify("a", 1, crewbus.FencedError("of the epoch before"))
        assert looked.wait(TIMEOUT)  # after the losses
        run.chunk("goes on")
    assert run.state == "finished"


def test_a_run_of_sqlite_is_told(tmp_path):
    """Through the store's own lease: nothing is written meanwhile."""
    sqlite = pytest.importorskip("crewbus_sqlite", reason="needs crewbus-sqlite")
    other = sqlite.SQLiteStore(tmp_path / "runs.db")

    def take():
        other.revoke("a")
        other.acquire("a")

    async def work(bus):
        async with bus.run(id="a"):
            await bus.aflush()
            await asyncio.to_thread(take)
            await asyncio.Event().wait()

    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(sqlite.SQLiteStore(tmp_path / "runs.db", lease=1.5))
        with pytest.raises(crewbus.FencedError, match="run a was taken over by process"):
            asyncio.run(asyncio.wait_for(work(bus), TIMEOUT))
    other.close()
