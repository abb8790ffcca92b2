"""The contract of a store behind a network: servers that crash, have no room, or are replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar, Final

import pytest

from crewbus.exceptions import FlushTimeoutError, RecordingError
from crewbus.stores import LogFilter, Store
from crewbus.testing.network.answers import seqs
from crewbus.testing.network.load import Load
from crewbus.testing.network.network_case import NetworkCase, repeated, within_limit
from crewbus.testing.network.proxy import Cut
from crewbus.testing.store.case import PATIENCE, begin_log, write_and_flush
from crewbus.testing.store.model import stored, write

REPEATS: Final = 20
EVENTS: Final = 100


class RecoveryContract(NetworkCase):
    """What a store does about a server that crashes, refuses or forgets."""

    pauses: ClassVar[tuple[float, ...]] = (0.5, 1.0)
    """The seconds of work before each restart of ``test_restarts_under_load``."""

    def test_restarts_under_load(self) -> None:
        """Nothing acknowledged is lost, nothing happens twice, and all goes on afterwards."""
        self.check_restarts(self.pauses)

    def check_restarts(self, pauses: tuple[float, ...]) -> None:
        """Have stores write, create, claim and post in threads, and restart the server after each pause."""
        load = Load([self.new_sharing_work(), self.new()])
        with load.running():
            for pause in pauses:
                load.let_work(pause)
                self.restart()
            load.let_work(0.2)
        self.close_all()  # which ends their leases
        load.check(self.new())

    def test_a_server_with_too_many_connections(self) -> None:
        """It is an outage: emissions are held, and all goes on once there is room."""
        store = self.new()
        epoch = begin_log(store)
        store.flush(PATIENCE)
        self.cut(Cut.RESET)
        with self.crowd():
            self.heal()
            store.append("a", epoch, stored(3))
            with pytest.raises((FlushTimeoutError, RecordingError)):
                within_limit(lambda: store.flush(0.2))
        repeated(store.flush)
        assert repeated(lambda: seqs(store, "a")) == [0, 1, 2, 3]

    def test_a_server_without_room_for_more_data(self) -> None:
        """What it can't write is not acknowledged, and is written once there is room."""
        store = self.new()
        epoch = begin_log(store)
        store.flush(PATIENCE)
        with self.fill_disk():
            refused = _write_until_refused(store, epoch, 3)
        repeated(store.flush)
        assert repeated(lambda: seqs(store, "a")) == list(range(refused + 1))
        write_and_flush(store, "a", epoch, refused + 1)

    def test_what_a_failover_lost_is_reported_to_who_holds_the_run(self) -> None:
        """A holder whose acknowledged events are gone must not go on: `confirm` raises, and so does what it writes."""
        store = self.new()
        for root in "ab":
            begin_log(store, root)
        store.flush(PATIENCE)
        with self.fail_over():
            for root in "ab":
                write_and_flush(store, root, 1, 3, 4)
            begin_log(store, "c")
            store.flush(PATIENCE)
        repeated(store.roots)
        for root in "ac":
            _assert_keeps_raising(lambda: store.confirm(root, 1))  # noqa: B023 - called at once
        with pytest.raises(RecordingError):
            within_limit(lambda: write_and_flush(store, "b", 1, 7))
        assert repeated(lambda: seqs(store, "b")) == [0, 1, 2]
        assert repeated(store.roots) == ["a", "b"]

    def test_after_a_failover_work_goes_on(self) -> None:
        """New runs are written, and what the replica has can be taken by the next holder."""
        store = self.new()
        begin_log(store, "a")
        store.flush(PATIENCE)
        with self.fail_over():
            write_and_flush(store, "a", 1, 3)
        repeated(lambda: store.begin("b"))
        write(store, "b", 1, 0, 3)
        repeated(store.flush)
        repeated(lambda: store.revoke("a"))
        other = self.new()
        epoch = repeated(lambda: other.acquire("a"))
        assert epoch == 2
        write_and_flush(other, "a", epoch, 3)
        assert seqs(other, "a") == [0, 1, 2, 3]
        assert [one.info.root_id for one in other.find(LogFilter())] == ["b", "a"]


def _write_until_refused(store: Store, epoch: int, start: int) -> int:
    """Write events, each acknowledged, until one can't be; returns the number of that one."""
    data = b'"%s"' % os.urandom(50_000).hex().encode()
    for seq in range(start, start + EVENTS):
        store.append("a", epoch, stored(seq, data=data))
        try:
            within_limit(lambda: store.flush(0.5))
        except (FlushTimeoutError, RecordingError):
            return seq
    raise AssertionError("the disk is not full")


def _assert_keeps_raising(call: Callable[[], object]) -> None:
    """Not only as long as connections that have ended are noticed."""
    for _ in range(REPEATS):
        with pytest.raises(RecordingError):
            within_limit(call)
