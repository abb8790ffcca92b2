"""The memory store: what its contract leaves to it, its bound, and the URLs that open it.

That it fulfils the contract is tested in `tests/test_store_contract.py`.
"""

from __future__ import annotations

import sys
import threading

import pytest
from lifecycle_helpers import PATIENCE

import crewbus
from crewbus.builtin import memory_store
from crewbus.exceptions import FencedError, RunHeldError
from crewbus.stores import LogInfo
from crewbus.stores.memory import DEFAULT_MAX_BYTES, OVERHEAD, MemoryStore
from crewbus.testing.store.contract import SequenceContract


def stored(seq: int, run_id: str = "a", data: bytes = b"{}") -> crewbus.StoredEvent:
    return crewbus.StoredEvent(run_id, seq, None, 1.5, "agent", 1, "test.Event", 1, data)


def fill(store: MemoryStore, root: str, count: int = 3, size: int = 2, finish: bool = True) -> None:
    epoch = store.begin(root)
    for seq in range(count):
        store.append(root, epoch, stored(seq, root, b"x" * size))
    if finish:
        store.finish(root, epoch)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_a_reader_follows_a_log_that_grows(store: MemoryStore) -> None:
    epoch = store.begin("a")
    store.append("a", epoch, stored(0))
    reader = store.read("a")
    assert next(reader).seq == 0
    store.append("a", epoch, stored(1))
    assert next(reader).seq == 1
    with pytest.raises(StopIteration):
        next(reader)


@pytest.mark.parametrize(
    ("root", "epoch", "seq", "message"),
    [("a", 1, 2, "gap"), ("a", 0, 1, "epoch 0"), ("a", 2, 1, "epoch 2"), ("b", 1, 0, "b has no open record")],
)
def test_an_append_out_of_place_changes_nothing(
    store: MemoryStore, root: str, epoch: int, seq: int, message: str
) -> None:
    fill(store, "a", count=1, finish=False)
    with pytest.raises(crewbus.RecordingError, match=message):
        store.append(root, epoch, stored(seq))
    assert [event.seq for event in store.read("a")] == [0]
    store.append("a", 1, stored(1))


def test_unknown_runs_raise(store: MemoryStore) -> None:
    for call in (lambda: list(store.read("b")), lambda: store.finish("b", 1), lambda: store.drop("b")):
        with pytest.raises(crewbus.RunNotFoundError, match="b is not recorded"):
            call()
    assert store.root_of("b") is None
    assert store.roots() == []


def test_this_process_holds_a_log_without_a_time_limit(store: MemoryStore) -> None:
    epoch = store.begin("a")
    assert store.info("a") == LogInfo("a", epoch, -1, False, holder="this process", until=None, alive=True)
    with pytest.raises(RunHeldError, match="run a is alive, held by this process"):
        store.acquire("a")


def test_a_revoked_holder_writes_until_the_log_is_acquired(store: MemoryStore) -> None:
    fill(store, "a", finish=False)
    store.revoke("a")
    store.append("a", 1, stored(3))
    assert not store.info("a").alive
    assert store.acquire("a") == 2
    with pytest.raises(FencedError, match="taken over with epoch 2: writes with epoch 1"):
        store.append("a", 1, stored(4))


def test_a_forked_child_holds_no_log_of_its_parent(store: MemoryStore) -> None:
    fill(store, "open", finish=False)
    fill(store, "sealed")
    lock = threading.Thread(target=store._lock.acquire)
    lock.start()
    lock.join(PATIENCE)
    store.after_fork()
    with pytest.raises(crewbus.RecordingError, match="no open record"):
        store.append("open", 1, stored(3))
    assert [(info.sealed, info.alive) for info in map(store.info, store.roots())] == [(False, False), (True, False)]
    assert store.acquire("open") == 2
    fill(store, "new")


def test_a_closed_store_can_be_given_to_another_bus() -> None:
    store = MemoryStore()
    for number in range(2):
        with crewbus.Bus(entry_points=False) as bus:
            bus.enable_recording(store)
            with bus.run(str(number)):
                pass
    assert [info.name for info in bus.recorded_runs()] == ["1", "0"]


# The bound


def test_the_oldest_finished_record_is_dropped_first() -> None:
    store = MemoryStore(max_bytes=7 * (OVERHEAD + 10))
    fill(store, "live", 1, 10, finish=False)
    for root in ("a", "b"):
        fill(store, root, 3, 10)
    assert store.roots() == ["live", "a", "b"]
    store.append("live", 1, stored(1, "live", b"x" * 10))
    assert store.roots() == ["live", "b"]
    assert store.root_of("a") is None
    for seq in (2, 3):
        store.append("live", 1, stored(seq, "live", b"x" * 10))
    assert store.roots() == ["live", "b"]
    store.append("live", 1, stored(4, "live", b"x" * 10))
    assert store.roots() == ["live"]


def test_without_finished_records_the_store_is_full() -> None:
    store = MemoryStore(max_bytes=2 * (OVERHEAD + 10))
    fill(store, "live", 2, 10, finish=False)
    with pytest.raises(crewbus.StoreFullError, match="max_bytes"):
        store.append("live", 1, stored(2, "live", b"x"))
    assert [event.seq for event in store.read("live")] == [0, 1]
    store.finish("live", 1)
    fill(store, "next", 1, 10)
    assert store.roots() == ["next"]


def test_an_event_that_can_never_fit_drops_no_record() -> None:
    store = MemoryStore(max_bytes=4 * OVERHEAD)
    fill(store, "a", 1, 0)
    fill(store, "live", 1, 0, finish=False)
    with pytest.raises(crewbus.StoreFullError):
        store.append("live", 1, stored(1, "live", b"x" * 10 * OVERHEAD))
    assert store.roots() == ["a", "live"]


def test_a_dropped_record_frees_its_bytes() -> None:
    store = MemoryStore(max_bytes=3 * (OVERHEAD + 2))
    for number in range(100):
        fill(store, f"run {number}")
        store.drop(f"run {number}")
    fill(store, "last", finish=False)
    assert len(list(store.read("last"))) == 3


def test_a_reader_keeps_a_record_that_is_dropped_meanwhile() -> None:
    store = MemoryStore(max_bytes=3 * (OVERHEAD + 2))
    fill(store, "a")
    reader = store.read("a")
    next(reader)
    fill(store, "b")
    assert store.roots() == ["b"]
    assert [event.seq for event in reader] == [1, 2]


def test_only_sealed_records_are_dropped_at_the_bound() -> None:
    store = MemoryStore(max_bytes=6 * (OVERHEAD + 2))
    fill(store, "interrupted", finish=False)
    store.release("interrupted", 1)
    fill(store, "resumed", 2)
    epoch = store.acquire("resumed")
    fill(store, "finished", 1)
    fill(store, "next", 1, finish=False)
    assert store.roots() == ["interrupted", "resumed", "next"]
    with pytest.raises(crewbus.StoreFullError):
        store.append("resumed", epoch, stored(2, "resumed", b"{}"))
    store.finish("resumed", epoch)
    store.append("next", 1, stored(1, "next", b"{}"))
    assert store.roots() == ["interrupted", "next"]


def test_records_that_a_fork_needs_are_not_dropped() -> None:
    store = MemoryStore(max_bytes=4 * (OVERHEAD + 2))
    fill(store, "a")
    store.fork("a", 1, "fork")
    epoch = store.acquire("fork")
    store.append("fork", epoch, stored(2, "fork"))
    live = store.begin("live")
    with pytest.raises(crewbus.StoreFullError):
        store.append("live", live, stored(0, "live"))
    store.finish("fork", epoch)
    store.append("live", live, stored(0, "live"))
    assert store.roots() == ["a", "live"]
    store.append("live", live, stored(1, "live"))
    assert store.roots() == ["live"]


def test_shared_events_count_once() -> None:
    store = MemoryStore(max_bytes=4 * (OVERHEAD + 2))
    fill(store, "a")
    for number in range(100):
        store.fork("a", 2, f"fork {number}")
    store.append("fork 50", store.acquire("fork 50"), stored(3, "fork 50"))
    assert len(store.roots()) == 101
    assert [event.run_id for event in store.read("fork 50")] == ["a", "a", "a", "fork 50"]


class AuditedStore(MemoryStore):
    """Counts again, each time that it is looked at, what it has kept count of."""

    def roots(self) -> list[str]:
        live = [log for log in self._logs.values() if not log.sealed]
        needed = {ancestor for log in live for ancestor, _ in log.lineage()}
        for log in self._logs.values():
            assert log.size == sum(len(kept.data) + OVERHEAD for kept in [*log.events, *log.mail])
            assert bool(log.references) == (log in needed)
        assert self._size == sum(log.size for log in self._logs.values())
        assert self._live == sum(log.size for log in needed)
        return super().roots()


class TestAccounts(SequenceContract):
    def open(self) -> MemoryStore:
        return AuditedStore()


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_bound_is_at_least_one(max_bytes: int) -> None:
    with pytest.raises(crewbus.CrewbusError, match="at least 1"):
        MemoryStore(max_bytes)


def test_the_overhead_is_not_less_than_what_an_event_takes() -> None:
    event = stored(10_000, data=b"x" * 100)
    parts = [event, event.data, event.seq, event.at]
    slots = 2 * 8  # in the log's lists
    assert sum(map(sys.getsizeof, parts)) - 100 + slots <= OVERHEAD


# URLs


def test_memory_urls_open_a_store() -> None:
    opened = memory_store.crewbus_open_store("memory:")
    assert isinstance(opened, MemoryStore)
    assert opened.max_bytes == DEFAULT_MAX_BYTES
    limited = memory_store.crewbus_open_store("memory:?max_bytes=1234")
    assert isinstance(limited, MemoryStore)
    assert limited.max_bytes == 1234
    assert memory_store.crewbus_open_store("sqlite:records.db") is None


@pytest.mark.parametrize(
    "url", ["memory:?max_bytes=", "memory:?max_bytes=many", "memory:?size=3", "memory:?max_bytes=0"]
)
def test_an_invalid_memory_url_is_rejected(url: str) -> None:
    with pytest.raises(crewbus.InputError, match="memory"):
        memory_store.crewbus_open_store(url)


def test_a_bus_opens_the_store_that_a_url_names() -> None:
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording("memory:?max_bytes=5000")
        assert isinstance(bus.store, MemoryStore)
        assert bus.store.max_bytes == 5000
        with pytest.raises(crewbus.RecordingError, match="gopher"):
            bus.enable_recording("gopher://records")
        assert bus.store.max_bytes == 5000


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:secret@db.example/records", "postgresql://***@db.example/records"),
        ("postgresql://ann:sec@ret@db.example", "postgresql://***@db.example"),
        (
            "postgresql://db.example/records?user=ann&password=secret",
            "postgresql://db.example/records?user=ann&password=***",
        ),
        ("gopher://db.example/a@b", "gopher://db.example/a@b"),
    ],
)
def test_no_error_shows_the_password_of_a_store(url: str, shown: str) -> None:
    with crewbus.Bus(entry_points=False) as bus, pytest.raises(crewbus.RecordingError) as failed:
        bus.enable_recording(url)
    assert f"no plugin opens the store '{shown}'" in str(failed.value)


def test_without_its_plugin_nothing_opens_a_memory_url() -> None:
    with crewbus.Bus(entry_points=False, blocked=["memory_store"]) as bus:
        with pytest.raises(crewbus.RecordingError, match="no plugin opens the store 'memory:'"):
            bus.enable_recording()
        assert not bus.recording.armed
        bus.enable_recording(MemoryStore())
        assert bus.recording.armed
