"""The contract of a store behind a network: connections that end, fall silent or stand still."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from crewbus.exceptions import CrewbusError, FencedError, FlushTimeoutError, RecordingError, RunHeldError
from crewbus.stores import Claim, Store
from crewbus.testing.network.answers import seqs
from crewbus.testing.network.network_case import NetworkCase, repeated, within_limit
from crewbus.testing.network.proxy import Cut
from crewbus.testing.store.case import PATIENCE, begin_log
from crewbus.testing.store.crash import STEPS
from crewbus.testing.store.model import Model, all_logs, stored


class OutageContract(NetworkCase):
    """What a store does while it can't reach its server."""

    @pytest.mark.parametrize("flushed", [False, True], ids=["before it is written", "after it is written"])
    def test_connections_end_between_any_two_steps(self, flushed: bool) -> None:
        """Nothing that a caller asked for is lost or done twice; at worst a call fails, which can be repeated."""
        store, model = self.new(), Model()
        for step in STEPS:
            step(model)
            repeated(lambda: step(store))  # noqa: B023 - called at once
            if flushed:
                repeated(store.flush)
            self.cut(Cut.RESET)
            self.heal()
            repeated(store.flush)
        assert repeated(lambda: all_logs(store)) == all_logs(model)

    def test_what_is_emitted_during_an_outage_is_written_after_it(self) -> None:
        """Emissions are held meanwhile."""
        store = self.new()
        epoch = begin_log(store)
        store.flush(PATIENCE)
        self.cut(Cut.RESET)
        for seq in range(3, 50):
            store.append("a", epoch, stored(seq))
        with pytest.raises((FlushTimeoutError, RecordingError)):
            within_limit(lambda: store.flush(0.2))
        assert store.backlog().events == 47
        self.heal()
        repeated(store.flush)
        assert repeated(lambda: seqs(store, "a")) == list(range(50))
        assert store.backlog().events == 0

    def test_an_outage_has_limits(self) -> None:
        """What waits in memory stays within its bound, and emitters are told; reads and waits end, with an error.

        Nothing that was accepted is lost.
        """
        store, bound = self.open_limited()
        try:
            epoch = begin_log(store)
            store.flush(PATIENCE)
            self.cut(Cut.RESET)
            accepted = _fill(store, epoch, 3, bound)
            assert 0 < store.backlog().bytes <= bound
            for call in (store.flush, store.roots, lambda: store.acquire("b"), lambda: store.claim(Claim())):
                with pytest.raises(CrewbusError):
                    within_limit(call)
            self.heal()
            repeated(store.flush)
            assert repeated(lambda: seqs(store, "a")) == list(range(accepted))
        finally:
            within_limit(store.close)

    def test_closing_during_an_outage_ends(self) -> None:
        """A store that can't write what it holds says so, and does not wait for ever."""
        store, _ = self.open_limited()
        epoch = begin_log(store)
        store.flush(PATIENCE)
        self.cut(Cut.RESET)
        store.append("a", epoch, stored(3))
        with pytest.raises(CrewbusError):
            within_limit(store.close)
        self.heal()

    def test_half_open_connections_are_given_up(self) -> None:
        """No call waits for ever for an answer: it fails or is repeated on another connection, and so does a watch."""
        store, other, noticed = self.new(), self.new(), threading.Event()
        epoch = begin_log(store)
        store.flush(PATIENCE)
        stop = store.watch(noticed.set)
        try:
            repeated(store.roots)
            self.cut(Cut.SILENCE)
            self.heal()
            store.append("a", epoch, stored(3))
            with suppress(RecordingError):
                within_limit(store.roots)
            repeated(store.flush)
            noticed.clear()
            repeated(lambda: other.begin("b"))
            repeated(other.flush)
            assert noticed.wait(PATIENCE)
        finally:
            within_limit(stop)
        assert repeated(lambda: seqs(store, "a")) == [0, 1, 2, 3]

    def test_a_server_that_stood_still_for_longer_than_a_lease(self) -> None:
        """A holder doubts its lease meanwhile. Afterwards either it still holds the run, or it is fenced."""
        store, other = self.new(), self.new()
        epoch = begin_log(store)
        store.flush(PATIENCE)
        repeated(other.roots)
        assert store.has_lease("a", epoch)
        self.cut(Cut.PAUSE)
        try:
            store.append("a", epoch, stored(3))
            _wait_until(lambda: not store.has_lease("a", epoch))
            threading.Event().wait(self.lease)
        finally:
            self.heal()
        taken = repeated(lambda: _acquired(other, "a"))
        if taken:
            with pytest.raises(FencedError):
                repeated(lambda: store.confirm("a", epoch))
            with suppress(FencedError):
                repeated(store.flush)
            assert repeated(lambda: seqs(other, "a")) == list(range(other.info("a").last + 1))
        else:
            repeated(lambda: store.confirm("a", epoch))
            repeated(store.flush)
            assert repeated(lambda: seqs(store, "a")) == [0, 1, 2, 3]


def _fill(store: Store, epoch: int, start: int, bound: int) -> int:
    """Append events until one is refused, and return its number."""
    data = b'"%s"' % (b"x" * 1000)
    for seq in range(start, start + bound):
        try:
            store.append("a", epoch, stored(seq, data=data))
        except RecordingError:
            return seq
    raise AssertionError("more is held than the bound allows")


def _acquired(store: Store, root_id: str) -> int | None:
    """The epoch with which a store has acquired a log now, or None if another one holds it."""
    try:
        return store.acquire(root_id)
    except RunHeldError:
        return None


def _wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come about")
