"""The memory store: the Store contract, its bound, and the URLs that open it."""

from __future__ import annotations

import sys
import threading

import pytest
from lifecycle_helpers import PATIENCE, Caller

import crewbus
from crewbus.builtin import memory_store
from crewbus.builtin.memory_store import OVERHEAD, MemoryStore


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


def test_what_is_appended_is_read_back_in_order(store: MemoryStore) -> None:
    epoch = store.begin("a")
    assert epoch == 1
    events = [stored(seq, data=b'{"n":%d}' % seq) for seq in range(5)]
    for event in events:
        store.append("a", epoch, event)
    assert list(store.read("a")) == events
    assert list(store.read("a", after=2)) == events[3:]
    assert list(store.read("a", after=4)) == []
    store.finish("a", epoch)
    assert list(store.read("a")) == events


def test_a_reader_follows_a_log_that_grows(store: MemoryStore) -> None:
    epoch = store.begin("a")
    store.append("a", epoch, stored(0))
    reader = store.read("a")
    assert next(reader).seq == 0
    store.append("a", epoch, stored(1))
    assert next(reader).seq == 1
    with pytest.raises(StopIteration):
        next(reader)


def test_an_empty_log_can_be_read(store: MemoryStore) -> None:
    store.begin("a")
    assert list(store.read("a")) == []
    assert store.roots() == ["a"]


def test_a_run_is_begun_once(store: MemoryStore) -> None:
    fill(store, "a")
    with pytest.raises(crewbus.RunIdInUseError, match="run a is recorded"):
        store.begin("a")
    assert len(list(store.read("a"))) == 3


def test_the_id_of_a_nested_run_is_taken_too(store: MemoryStore) -> None:
    epoch = store.begin("a")
    store.append("a", epoch, stored(0, "nested"))
    with pytest.raises(crewbus.RunIdInUseError, match="nested"):
        store.begin("nested")


def test_a_repeated_number_is_ignored(store: MemoryStore) -> None:
    epoch = store.begin("a")
    store.append("a", epoch, stored(0, data=b"first"))
    store.append("a", epoch, stored(1, data=b"second"))
    store.append("a", epoch, stored(0, data=b"again"))
    assert [event.data for event in store.read("a")] == [b"first", b"second"]


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


def test_a_finished_log_takes_nothing(store: MemoryStore) -> None:
    fill(store, "a")
    with pytest.raises(crewbus.RecordingError, match="no open record"):
        store.append("a", 1, stored(3))
    assert len(list(store.read("a"))) == 3


def test_what_is_not_there(store: MemoryStore) -> None:
    for call in (lambda: list(store.read("b")), lambda: store.finish("b", 1), lambda: store.drop("b")):
        with pytest.raises(crewbus.RunNotFoundError, match="b is not recorded"):
            call()
    assert store.root_of("b") is None
    assert store.roots() == []


def test_which_root_a_run_is_recorded_under(store: MemoryStore) -> None:
    epoch = store.begin("a")
    store.append("a", epoch, stored(0, "a"))
    store.append("a", epoch, stored(1, "nested"))
    assert (store.root_of("a"), store.root_of("nested")) == ("a", "a")
    store.finish("a", epoch)
    store.drop("a")
    assert (store.root_of("a"), store.root_of("nested")) == (None, None)
    store.begin("nested")


def test_roots_are_listed_oldest_first(store: MemoryStore) -> None:
    for root in ("c", "a", "b"):
        fill(store, root)
    assert store.roots() == ["c", "a", "b"]
    store.drop("a")
    assert store.roots() == ["c", "b"]


def test_an_open_log_is_not_dropped(store: MemoryStore) -> None:
    fill(store, "a", finish=False)
    with pytest.raises(crewbus.RecordingError, match="live"):
        store.drop("a")
    assert len(list(store.read("a"))) == 3


def test_flush_and_close_are_there(store: MemoryStore) -> None:
    fill(store, "a")
    store.flush(0)
    store.close()
    assert len(list(store.read("a"))) == 3


# The bound


def test_the_oldest_finished_record_makes_room() -> None:
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


def test_nothing_finished_left_means_full() -> None:
    store = MemoryStore(max_bytes=2 * (OVERHEAD + 10))
    fill(store, "live", 2, 10, finish=False)
    with pytest.raises(crewbus.StoreFullError, match="max_bytes"):
        store.append("live", 1, stored(2, "live", b"x"))
    assert [event.seq for event in store.read("live")] == [0, 1]
    store.finish("live", 1)
    fill(store, "next", 1, 10)
    assert store.roots() == ["next"]


def test_what_can_never_fit_makes_nobody_go() -> None:
    store = MemoryStore(max_bytes=4 * OVERHEAD)
    fill(store, "a", 1, 0)
    fill(store, "live", 1, 0, finish=False)
    with pytest.raises(crewbus.StoreFullError):
        store.append("live", 1, stored(1, "live", b"x" * 10 * OVERHEAD))
    assert store.roots() == ["a", "live"]


def test_what_was_dropped_frees_its_bytes() -> None:
    store = MemoryStore(max_bytes=3 * (OVERHEAD + 2))
    for number in range(100):
        fill(store, f"run {number}")
        store.drop(f"run {number}")
    fill(store, "last", finish=False)
    assert len(list(store.read("last"))) == 3


def test_a_reader_keeps_what_is_given_up_meanwhile() -> None:
    store = MemoryStore(max_bytes=3 * (OVERHEAD + 2))
    fill(store, "a")
    reader = store.read("a")
    next(reader)
    fill(store, "b")
    assert store.roots() == ["b"]
    assert [event.seq for event in reader] == [1, 2]


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_bound_is_at_least_one(max_bytes: int) -> None:
    with pytest.raises(crewbus.CrewbusError, match="at least 1"):
        MemoryStore(max_bytes)


def test_the_overhead_is_not_less_than_what_an_event_takes() -> None:
    event = stored(10_000, data=b"x" * 100)
    parts = [event, event.data, event.seq, event.at]
    slot = 8  # in the log's list
    assert sum(map(sys.getsizeof, parts)) - 100 + slot <= OVERHEAD


def test_many_threads_write_many_logs(store: MemoryStore) -> None:
    barrier = threading.Barrier(16)

    def write(number: int) -> None:
        barrier.wait(PATIENCE)
        for turn in range(5):
            fill(store, f"{number}/{turn}", 20)
            if turn % 2:
                store.drop(f"{number}/{turn}")

    for caller in [Caller(write, number) for number in range(16)]:
        caller.outcome()
    assert sorted(store.roots()) == sorted(f"{number}/{turn}" for number in range(16) for turn in (0, 2, 4))
    assert all(len(list(store.read(root))) == 20 for root in store.roots())


def test_after_a_fork_what_the_parent_began_is_closed(store: MemoryStore) -> None:
    fill(store, "a", finish=False)
    lock = threading.Thread(target=store._lock.acquire)
    lock.start()
    lock.join(PATIENCE)
    store.after_fork()
    with pytest.raises(crewbus.RecordingError, match="no open record"):
        store.append("a", 1, stored(3))
    assert len(list(store.read("a"))) == 3
    fill(store, "b")


# URLs


def test_memory_urls_open_a_store() -> None:
    opened = memory_store.crewbus_open_store("memory:")
    assert isinstance(opened, MemoryStore)
    assert opened.max_bytes == memory_store.DEFAULT_MAX_BYTES
    limited = memory_store.crewbus_open_store("memory:?max_bytes=1234")
    assert isinstance(limited, MemoryStore)
    assert limited.max_bytes == 1234
    assert memory_store.crewbus_open_store("sqlite:records.db") is None


@pytest.mark.parametrize(
    "url", ["memory:?max_bytes=", "memory:?max_bytes=many", "memory:?size=3", "memory:?max_bytes=0"]
)
def test_a_memory_url_that_is_wrong_is_refused(url: str) -> None:
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


def test_without_its_plugin_nothing_opens_a_memory_url() -> None:
    with crewbus.Bus(entry_points=False, blocked=["memory_store"]) as bus:
        with pytest.raises(crewbus.RecordingError, match="no plugin opens the store 'memory:'"):
            bus.enable_recording()
        assert not bus.recording
        bus.enable_recording(MemoryStore())
        assert bus.recording
