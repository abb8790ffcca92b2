"""The contract of a store: any number of threads may write and read."""

from __future__ import annotations

import threading
from functools import partial

from crewbus.stores import Store
from crewbus.testing.store.case import PATIENCE, StoreCase, begin_log, call_concurrently
from crewbus.testing.store.model import stored, write

THREADS = 8


def _write_twice(store: Store, root_id: str, events: int) -> None:
    """Write a log and finish it, acquire it again and write more."""
    write(store, root_id, epoch := store.begin(root_id), 0, events)
    store.finish(root_id, epoch)
    write(store, root_id, epoch := store.acquire(root_id), events, events)
    store.finish(root_id, epoch)


class ThreadContract(StoreCase):
    """What a store does when threads share it."""

    def test_many_threads_write_many_logs(self) -> None:
        """Logs are written from any number of threads, and don't mix."""
        store = self.new()

        def work(number: int) -> None:
            for turn in range(4):
                _write_twice(store, f"{number}/{turn}", 10)
                if turn % 2:
                    store.drop(f"{number}/{turn}")

        assert call_concurrently(*(partial(work, number) for number in range(THREADS))) == [None] * THREADS
        store.flush(PATIENCE)
        assert sorted(store.roots()) == sorted(f"{number}/{turn}" for number in range(THREADS) for turn in (0, 2))
        for root in store.roots():
            events = list(store.read(root))
            assert [event.seq for event in events] == list(range(20))
            assert {event.data for event in events} == {b'{"by":"%s"}' % root.encode()}

    def test_a_growing_log_is_read_in_order(self) -> None:
        """Reading a log while it grows gives its events from the beginning, without gaps."""
        store, other = self.pair()
        epoch, done = begin_log(store), threading.Event()
        store.flush(PATIENCE)

        def append() -> None:
            try:
                write(store, "a", epoch, 3, 500)
                store.flush(PATIENCE)
            finally:
                done.set()

        def look() -> int:
            looks = 0
            while not done.is_set() or not looks:
                seen = [event.seq for event in other.read("a")]
                assert seen == list(range(len(seen)))
                assert len(seen) >= 3
                looks += 1
            return looks

        outcomes = call_concurrently(append, look, look)
        assert outcomes[0] is None
        assert all(isinstance(outcome, int) for outcome in outcomes[1:]), outcomes
        assert [event.seq for event in other.read("a")] == list(range(503))

    def test_reading_sees_earlier_writes(self) -> None:
        """Reads observe every write made earlier through this store."""
        store = self.new()
        epoch = store.begin("a")
        for seq in range(50):
            store.append("a", epoch, stored(seq, f"run {seq}"))
            assert store.info("a").last == seq
            assert store.root_of(f"run {seq}") == "a"
            assert store.event("a", seq).seq == seq

    def test_a_reader_may_stop_halfway(self) -> None:
        """A reader that pauses or stops does not block writers."""
        store = self.new()
        epoch = begin_log(store, "a", 50)
        readers = [store.read("a") for _ in range(20)]
        for reader in readers:
            assert next(reader).seq == 0
        write(store, "a", epoch, 50)
        store.finish("a", epoch)
        store.flush(PATIENCE)
        assert [event.seq for event in readers[0]][:49] == list(range(1, 50))
