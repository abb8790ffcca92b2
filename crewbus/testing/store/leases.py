"""The contract of a store: a log has one writer at a time."""

from __future__ import annotations

import queue
from functools import partial

import pytest

from crewbus.exceptions import CrewbusError, FencedError, RecordingError, RunHeldError, RunIdInUseError
from crewbus.stores import Store
from crewbus.testing.store.case import (
    PATIENCE,
    StoreCase,
    begin_log,
    call_concurrently,
    write_and_flush,
    write_and_wait,
    write_finished_log,
)
from crewbus.testing.store.model import all_logs, log_state

RACES = 40


def _begin_and_write(store: Store, root_id: str) -> int:
    epoch = store.begin(root_id)
    write_and_wait(store, root_id, epoch, 0, 2)
    return epoch


def _begin_and_confirm(store: Store, root_id: str) -> int:
    epoch = store.begin(root_id)
    store.confirm(root_id, epoch)
    return epoch


class LeaseContract(StoreCase):
    """What a store does about holders."""

    def test_a_held_log_can_not_be_acquired(self) -> None:
        """`acquire` raises `RunHeldError` while any store holds the log; the error names the holder."""
        first, second = self.pair()
        epoch = begin_log(first)
        first.flush(PATIENCE)
        for store in (first, second):
            info = store.info("a")
            assert info.alive
            assert info.holder
            with pytest.raises(RunHeldError) as refused:
                store.acquire("a")
            assert info.holder in str(refused.value)
        assert first.info("a").epoch == epoch
        write_and_flush(first, "a", epoch, 3)

    def test_a_released_log_can_be_acquired_at_once(self) -> None:
        """After `finish`, `release` and `revoke` a log can be acquired; each time the epoch rises by one."""
        first, second = self.pair()
        epoch = begin_log(first)
        assert epoch == 1
        for turn, way in enumerate(["finish", "release", "revoke", "finish"], start=1):
            if way == "revoke":
                second.revoke("a")
            else:
                getattr(first, way)("a", epoch)
            first.flush(PATIENCE)
            assert not second.info("a").alive
            epoch = second.acquire("a")
            assert epoch == turn + 1
            assert second.info("a")[1:4] == (epoch, turn + 1, False)
            write_and_flush(second, "a", epoch, turn + 2)
            first, second = second, first
        assert [event.seq for event in first.read("a")] == list(range(7))

    def test_a_former_holder_is_fenced(self) -> None:
        """Writes with an older epoch raise `FencedError`, at the latest in `flush`, and are not kept."""
        first, second = self.pair()
        old = begin_log(first)
        first.flush(PATIENCE)
        second.revoke("a")
        epoch = second.acquire("a")
        with pytest.raises(FencedError):
            write_and_flush(first, "a", old, 3, 5)
        assert [event.seq for event in second.read("a")] == [0, 1, 2]
        write_and_flush(second, "a", epoch, 3)
        with pytest.raises(FencedError):
            write_and_flush(first, "a", old, 3)
        assert log_state(second, "a")[:3] == (epoch, False, True)
        assert [event.seq for event in second.read("a")] == [0, 1, 2, 3]

    def test_a_fenced_holder_is_notified_with_the_error(self) -> None:
        """`when_written` passes the error to its function."""
        first, second = self.pair()
        old = begin_log(first)
        first.flush(PATIENCE)
        second.revoke("a")
        second.acquire("a")
        with pytest.raises(FencedError):
            write_and_wait(first, "a", old, 3)

    def test_a_holder_confirms_its_log(self) -> None:
        """Nothing keeps a holder from its log: `has_lease` is True, and `confirm` returns; it may write on."""
        store = self.new()
        epoch = begin_log(store)
        assert store.has_lease("a", epoch)
        store.confirm("a", epoch)
        assert store.has_lease("a", epoch)
        write_and_flush(store, "a", epoch, 3)
        store.release("a", epoch)
        epoch = store.acquire("a")
        assert store.has_lease("a", epoch)
        store.confirm("a", epoch)
        write_and_flush(store, "a", epoch, 4)

    def test_a_former_holder_is_told_by_confirm(self) -> None:
        """Once another holds the log, `confirm` raises `FencedError`, each time, and then `has_lease` is False."""
        first, second = self.pair()
        old = begin_log(first)
        first.flush(PATIENCE)
        second.revoke("a")
        epoch = second.acquire("a")
        for _ in range(2):
            with pytest.raises(FencedError):
                first.confirm("a", old)
            assert not first.has_lease("a", old)
        with pytest.raises(FencedError):
            write_and_flush(first, "a", old, 3)
        second.confirm("a", epoch)
        assert second.has_lease("a", epoch)
        write_and_flush(second, "a", epoch, 3)

    def test_of_two_beginning_a_log_one_is_confirmed(self) -> None:
        """Of two stores that `begin` a log at once, one gets `RunIdInUseError`, from `confirm` at the latest."""
        first, second = self.pair()
        for turn in range(RACES):
            root = str(turn)
            outcomes = call_concurrently(
                partial(_begin_and_confirm, first, root), partial(_begin_and_confirm, second, root)
            )
            assert {type(outcome) for outcome in outcomes} == {int, RunIdInUseError}, outcomes

    def test_a_lost_log_does_not_affect_others(self) -> None:
        """Refused writes of one log leave the others as they are; `flush` raises for them once."""
        first, second = self.pair()
        old, other = begin_log(first), begin_log(first, "b")
        first.flush(PATIENCE)
        second.revoke("a")
        second.acquire("a")
        with pytest.raises(FencedError):
            write_and_flush(first, "a", old, 3)
        write_and_flush(first, "b", other, 3, 10)
        write_and_wait(first, "b", other, 13)
        assert second.info("b").last == 13

    def test_a_holder_is_told_that_it_lost_a_log(self) -> None:
        """Without writing to it, if the store overrides `on_lost`; with the run, the epoch and what `append` raises."""
        first, second = self.pair()
        if type(first).on_lost is Store.on_lost:
            pytest.skip("this store does not tell of lost logs")
        told = queue.SimpleQueue[tuple[str, int, CrewbusError]]()
        stop = first.on_lost(lambda *loss: told.put(loss))
        old, other = begin_log(first), begin_log(first, "b")
        first.flush(PATIENCE)
        second.revoke("a")
        second.acquire("a")
        root, epoch, error = told.get(timeout=PATIENCE)
        assert (root, epoch, type(error)) == ("a", old, FencedError)
        assert not first.has_lease("a", old)
        assert first.has_lease("b", other)
        stop()
        first.flush(PATIENCE)

    def test_a_released_log_takes_nothing(self) -> None:
        """`release` gives up a log without sealing it; later appends are refused."""
        store = self.new()
        epoch = begin_log(store)
        store.release("a", epoch)
        before = all_logs(store)
        assert not before["a"].sealed
        with pytest.raises(RecordingError):
            write_and_flush(store, "a", epoch, 3)
        assert all_logs(store) == before

    def test_release_by_a_fenced_holder_is_ignored(self) -> None:
        """`release` with an old epoch is ignored: the log stays with its new holder."""
        first, second = self.pair()
        old = begin_log(first)
        first.flush(PATIENCE)
        second.revoke("a")
        epoch = second.acquire("a")
        first.release("a", old)
        assert second.info("a").alive
        write_and_flush(second, "a", epoch, 3)

    def test_of_two_acquiring_a_log_one_succeeds(self) -> None:
        """Of two concurrent `acquire` calls exactly one succeeds; the other raises `RunHeldError`."""
        first, second = self.pair()
        write_finished_log(first)
        first.flush(PATIENCE)
        for turn in range(RACES):
            outcomes = call_concurrently(lambda: first.acquire("a"), lambda: second.acquire("a"))
            assert {type(outcome) for outcome in outcomes} == {int, RunHeldError}, outcomes
            winner, epoch = (first, outcomes[0]) if isinstance(outcomes[0], int) else (second, outcomes[1])
            assert epoch == turn + 2
            write_and_flush(winner, "a", epoch, 3 + turn)
            winner.release("a", epoch)
            winner.flush(PATIENCE)
        assert [event.seq for event in first.read("a")] == list(range(3 + RACES))

    def test_of_two_beginning_a_log_one_succeeds(self) -> None:
        """Of two concurrent `begin` calls one succeeds; the other raises `RunIdInUseError`, or its flush does."""
        first, second = self.pair()
        for turn in range(RACES):
            outcomes = call_concurrently(
                partial(_begin_and_write, first, str(turn)), partial(_begin_and_write, second, str(turn))
            )
            assert {type(outcome) for outcome in outcomes} == {int, RunIdInUseError}, outcomes
            assert [event.seq for event in second.read(str(turn))] == [0, 1]
        assert first.roots() == [str(turn) for turn in range(RACES)]
