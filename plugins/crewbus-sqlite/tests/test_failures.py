"""Failed writes: the next emission or flush raises, nothing is lost, and writing continues when it can."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import threading
import time

import pytest
from sqlite_helpers import PATIENCE, answer, begun, noted, numbers, write

import crewbus
from crewbus.durability.disk import BEHIND
from crewbus.exceptions import FlushTimeoutError, RecordingError, RunIdInUseError, StoreFullError
from crewbus.stores import Backlog
from crewbus_sqlite import SQLiteStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.db"


@pytest.fixture
def store(path):
    store = SQLiteStore(path, busy=0.05)
    yield store
    with contextlib.suppress(RecordingError):
        store.close()


@pytest.fixture
def lock(path):
    """A foreign connection that may lock the file."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def test_a_locked_file_is_reported_and_nothing_is_lost(store, path):
    epoch = begun(store)
    store.flush()
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    store.append("a", epoch, noted(3))
    with pytest.raises(RecordingError, match="another process keeps it locked"):
        store.flush()
    with pytest.raises(RecordingError, match="another process keeps it locked"):
        store.append("a", epoch, noted(4))  # it is refused, so the number is given again
    with pytest.raises(RecordingError):
        store.begin("b")
    with pytest.raises(RecordingError):
        numbers(store)
    received, heard = [], threading.Event()
    store.when_written("a", lambda error: (received.append(error), heard.set()))
    assert heard.wait(PATIENCE)
    assert type(received[0]) is RecordingError
    lock.execute("ROLLBACK")
    lock.close()
    store.flush()
    store.append("a", epoch, noted(4))
    assert numbers(store) == [0, 1, 2, 3, 4]
    assert len(received) == 1


def test_a_run_may_end_while_nothing_can_be_written(store, lock, path):
    lock.execute("BEGIN IMMEDIATE") if path.stat().st_size else lock.execute("BEGIN EXCLUSIVE")
    reader = SQLiteStore(path, busy=0.05)
    with pytest.raises(RecordingError, match="locked"):
        store.begin("a")
    lock.execute("ROLLBACK")
    epoch = begun(store)
    store.flush()
    lock.execute("BEGIN IMMEDIATE")
    store.append("a", epoch, noted(3))
    with pytest.raises(RecordingError):
        store.flush()
    store.finish("a", epoch)
    lock.execute("ROLLBACK")
    store.flush()
    assert reader.info("a")[2:4] == (3, True)
    reader.close()


def test_a_full_disk_is_reported_and_nothing_is_lost(store):
    epoch = begun(store)
    store.flush()
    limit(store, 0)
    write(store, "a", epoch, range(3, 50), b"x" * 10_000)
    with pytest.raises(RecordingError, match=r"the disk is full, .* make room, and flush"):
        store.flush()
    with pytest.raises(RecordingError, match="the disk is full"):
        store.append("a", epoch, noted(50))
    limit(store, 1 << 30)
    store.flush()
    store.append("a", epoch, noted(50))
    assert numbers(store) == list(range(51))


def limit(store, pages):
    """Let the file have no more than so many pages, or as many as it has."""
    with store._database.writing() as connection:
        connection.execute(f"PRAGMA max_page_count = {pages or 1}")


@pytest.mark.parametrize("gone", ["record.db", "record.db-wal"])
def test_a_deleted_file_is_reported_permanently(gone, store, path):
    epoch = begun(store)
    store.flush()
    (path.parent / gone).rename(path.parent / "moved away")
    store.append("a", epoch, noted(3))
    for _ in range(2):
        with pytest.raises(RecordingError, match=r"was deleted or replaced while it was open.*another store"):
            store.flush()
    with pytest.raises(RecordingError, match="was deleted"):
        store.append("a", epoch, noted(4))
    with pytest.raises(RecordingError, match="was deleted"):
        store.close()
    assert gone not in [file.name for file in path.parent.iterdir()]


def test_a_replaced_file_is_reported_and_left_alone(store, path):
    epoch = begun(store)
    store.flush()
    path.rename(path.parent / "moved away")
    other = SQLiteStore(path.parent / "other.db")
    begun(other)
    other.close()
    (path.parent / "other.db").rename(path)
    before = path.read_bytes()
    store.append("a", epoch, noted(3))
    with pytest.raises(RecordingError, match="was deleted or replaced"):
        store.flush()
    with pytest.raises(RecordingError, match="was deleted or replaced"):
        store.close()
    assert path.read_bytes() == before


def test_a_missing_directory_is_reported_and_may_be_made_later(store, tmp_path):
    late = SQLiteStore(tmp_path / "not yet" / "record.db")
    epoch = begun(late)
    with pytest.raises(RecordingError, match="can't be opened: see whether its directory exists"):
        late.flush()
    (tmp_path / "not yet").mkdir()
    late.flush()
    late.append("a", epoch, noted(3))
    assert numbers(late) == [0, 1, 2, 3]
    late.close()


def test_a_backlog_is_bounded(path):
    store = SQLiteStore(path, busy=0.05, backlog=10_000)
    epoch = begun(store)
    store.flush()
    with pytest.raises(StoreFullError, match="over the bound of 10000"):
        store.append("a", epoch, noted(3, data=b"x" * 10_000))
    for seq in range(3, 30):
        store.append("a", epoch, noted(seq, data=b"x" * 5000))
        store.flush()
    assert numbers(store) == list(range(30))
    store.close()


def test_flushing_takes_no_longer_than_it_may(path, lock):
    store = SQLiteStore(path, busy=PATIENCE)
    epoch = begun(store)
    store.flush()
    lock.execute("BEGIN IMMEDIATE")
    store.append("a", epoch, noted(3))
    with pytest.raises(FlushTimeoutError, match="not written"):
        store.flush(0.05)
    lock.execute("ROLLBACK")
    store.flush()
    assert numbers(store) == [0, 1, 2, 3]
    store.close()


UNFIT = {
    "half a character": {"source": "\ud800"},
    "a number beyond 64 bits": {"version": 1 << 63},
    "an attempt beyond 64 bits": {"attempt": -(1 << 63) - 1},
    "no text": {"name": 7},
    "no bytes": {"data": "text"},
    "no time": {"at": "now"},
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_an_event_that_can_not_be_stored_is_refused_at_once(unfit, store):
    epoch = begun(store)
    with pytest.raises(RecordingError, match="event 3 of run 'a' can't be stored"):
        store.append("a", epoch, noted(3)._replace(**UNFIT[unfit]))
    store.append("a", epoch, noted(3))
    assert numbers(store) == [0, 1, 2, 3]


def test_a_run_id_that_another_store_took_meanwhile_is_reported(store, path):
    other = SQLiteStore(path)
    with other._database.writing():  # so that neither's is there when the other begins
        epochs = {each: each.begin("a") for each in (store, other)}
    for each, epoch in epochs.items():
        each.append("a", epoch, noted(0, data=repr(each is store).encode()))
    lost = [each for each in epochs if answer(each.flush) is RunIdInUseError]
    assert len(lost) == 1
    with pytest.raises(RunIdInUseError, match="run a is recorded already"):
        lost[0].append("a", 1, noted(1))
    assert [event.data for event in store.read("a")] == [repr(lost[0] is other).encode()]
    other.close()


def test_an_error_of_a_notified_function_affects_no_other(store):
    epoch = begun(store)
    store.when_written("a", lambda error: 1 / 0)
    store.append("a", epoch, noted(3))
    assert numbers(store) == [0, 1, 2, 3]


def test_what_is_not_closed_keeps_no_cursor(store):
    begun(store)
    reader = store.read("a")
    next(reader)
    del reader
    gc.collect()
    assert numbers(store) == [0, 1, 2]


# Falling behind


@contextlib.contextmanager
def locked(path):
    """Another connection has the file, so that nothing can be written."""
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    yield
    lock.close()


def behind(store):
    """Wait until the store has an event that it has not written for longer than a service can bear."""
    deadline = time.monotonic() + PATIENCE
    while store.backlog().seconds <= BEHIND:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_backlog_says_what_waits_and_for_how_long(path):
    store = SQLiteStore(path)
    assert store.backlog() == Backlog()
    epoch = begun(store)
    store.flush()
    assert store.backlog() == Backlog()
    with locked(path):
        write(store, "a", epoch, range(3, 10), b"x" * 1000)
        behind(store)
        found = store.backlog()
        assert (found.events, found.bytes > 7000) == (7, True)
        write(store, "a", epoch, range(10, 12))
        later = store.backlog()
        assert later.events == 9
        assert later.seconds >= found.seconds
    store.flush()
    assert store.backlog() == Backlog()
    assert numbers(store) == list(range(12))
    store.close()


def test_a_backlog_that_could_not_be_written_goes_on_waiting(path):
    store = SQLiteStore(path, busy=0.05)
    epoch = begun(store)
    store.flush()
    with locked(path):
        write(store, "a", epoch, range(3, 5))
        with pytest.raises(RecordingError):
            store.flush()
        assert store.backlog().events == 2
        behind(store)
    store.flush()
    assert store.backlog() == Backlog()
    store.close()


def test_drain_waits_for_a_store_that_is_behind(path):
    async def main(bus):
        with bus.run():
            await bus.aflush()
            await bus.drain()
            with locked(path):
                bus.chunk("x")
                await asyncio.to_thread(behind, store)
                assert bus.backlog.events == 1
                draining = [asyncio.create_task(bus.drain()), asyncio.create_task(bus.achunk("y"))]
                done, _ = await asyncio.wait(draining, timeout=0.2)
                assert not done
            await asyncio.wait_for(asyncio.gather(*draining), PATIENCE)
            assert bus.backlog == Backlog()

    store = SQLiteStore(path)
    with crewbus.Bus(entry_points=False) as bus:
        assert bus.backlog == Backlog()
        bus.enable_recording(store)
        assert bus.backlog == Backlog()
        asyncio.run(main(bus))


def test_drain_waits_for_no_store_once_the_run_is_cancelled(path):
    async def main(bus):
        with bus.run() as run:
            await bus.aflush()
            with locked(path):
                bus.chunk("x")
                await asyncio.to_thread(behind, store)
                run.cancel()
                with pytest.raises((crewbus.Cancelled, asyncio.CancelledError)):
                    await bus.drain()
                assert store.backlog().events >= 1

    store = SQLiteStore(path)
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(store)
        asyncio.run(main(bus))


def test_drain_raises_what_keeps_the_store_from_writing(path):
    async def main(bus):
        with bus.run():
            await bus.aflush()
            with locked(path):
                bus.chunk("x")
                await asyncio.to_thread(behind, store)
                with pytest.raises(RecordingError, match="another process keeps it locked"):
                    await bus.drain()
            await bus.aflush()

    store = SQLiteStore(path, busy=0.5)
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(store)
        asyncio.run(main(bus))
    assert bus.backlog == Backlog()
