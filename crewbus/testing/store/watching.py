"""The contract of a store: who watches it is notified of changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from crewbus.stores import Claim, Store
from crewbus.testing.store.case import PATIENCE, StoreCase, begin_log, write_and_flush
from crewbus.testing.store.model import first_events, stored

Change = Callable[[Store], object]


def _begin(store: Store) -> None:
    begin_log(store)
    store.flush(PATIENCE)


def _append(store: Store) -> None:
    write_and_flush(store, "a", 1, store.info("a").last + 1)


def _create(store: Store) -> None:
    store.create("b", first_events("b"))


def _begin_another(store: Store) -> None:
    store.begin("c")
    store.flush(PATIENCE)


def _finish(store: Store) -> None:
    store.append("c", 1, stored(0, "c"))
    store.finish("c", 1)
    store.flush(PATIENCE)


CHANGES: Final[tuple[Change, ...]] = (
    _begin,
    _append,
    lambda store: store.release("a", 1),
    _create,
    lambda store: store.acquire("b"),
    lambda store: store.claim(Claim()),
    lambda store: store.revoke("b"),
    _begin_another,
    _finish,
    lambda store: store.fork("c", 0, "d"),
    lambda store: store.drop("d"),
)
"""Each kind of change, in an order in which they are possible."""


class WatchingContract(StoreCase):
    """What a store does for those who wait for changes."""

    def test_changes_are_noticed(self) -> None:
        """``notify`` is called after each change, by this store or another one with the same data."""
        store, other = self.pair()
        noticed = threading.Event()
        stop = other.watch(noticed.set)
        try:
            for number, change in enumerate(CHANGES):
                noticed.clear()
                change(store)
                assert noticed.wait(PATIENCE), f"change {number} was not noticed"
        finally:
            stop()

    def test_a_message_is_noticed(self) -> None:
        """Also by whoever holds its log."""
        store, other = self.pair_sharing_work()
        begin_log(store)
        store.flush(PATIENCE)
        noticed = threading.Event()
        stop = store.watch(noticed.set)
        try:
            noticed.clear()
            other.post("a", "u", b"1")
            assert noticed.wait(PATIENCE)
        finally:
            stop()

    def test_each_watcher_is_notified_until_it_stops(self) -> None:
        """The function that `watch` returned ends it for its own ``notify`` alone, and may be called again."""
        store = self.new()
        seen, noticed = list[int](), threading.Event()
        stops = [store.watch(lambda number=number: seen.append(number)) for number in range(3)]  # type: ignore[misc]
        stops[1]()
        stops[1]()
        stopped = store.watch(noticed.set)
        seen.clear()
        noticed.clear()
        begin_log(store)
        store.flush(PATIENCE)
        assert noticed.wait(PATIENCE)
        for stop in (*stops, stopped):
            stop()
        assert {0, 2} <= {*seen}
        assert 1 not in seen

    def test_a_watcher_that_raises_harms_nobody(self) -> None:
        """Neither the other watchers, nor who changes the store."""
        store, noticed = self.new(), threading.Event()

        def fail() -> None:
            raise ValueError("from a watcher")

        stops = store.watch(fail), store.watch(noticed.set)
        begin_log(store)
        store.flush(PATIENCE)
        assert noticed.wait(PATIENCE)
        for stop in stops:
            stop()
        assert store.info("a").last == 2
