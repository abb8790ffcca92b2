"""The contract of a store: one at a time writes a log."""

from __future__ import annotations

from functools import partial

import pytest

from crewbus.exceptions import FencedError, RecordingError, RunHeldError, RunIdInUseError
from crewbus.stores import Store
from crewbus.testing.store.case import (
    PATIENCE,
    StoreCase,
    begun,
    sealed,
    together,
    write_and_hear,
    write_through,
)
from crewbus.testing.store.model import album, picture

RACES = 40


def _begin(store: Store, root_id: str) -> int:
    epoch = store.begin(root_id)
    write_and_hear(store, root_id, epoch, 0, 2)
    return epoch


class LeaseContract(StoreCase):
    """What holds of who writes."""

    def test_a_log_that_is_held_is_not_taken(self) -> None:
        """`acquire` raises `RunHeldError` while the log is alive, by whatever store it is held, and names who."""
        first, second = self.pair()
        epoch = begun(first)
        first.flush(PATIENCE)
        for store in (first, second):
            info = store.info("a")
            assert info.alive
            assert info.holder
            with pytest.raises(RunHeldError) as refused:
                store.acquire("a")
            assert info.holder in str(refused.value)
        assert first.info("a").epoch == epoch
        write_through(first, "a", epoch, 3)

    def test_a_log_that_is_let_go_of_can_be_taken_at_once(self) -> None:
        """After `finish`, `release` and `revoke` whoever comes first takes it; each time the epoch rises by one."""
        first, second = self.pair()
        epoch = begun(first)
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
            write_through(second, "a", epoch, turn + 2)
            first, second = second, first
        assert [event.seq for event in first.read("a")] == list(range(7))

    def test_who_was_taken_over_from_is_fenced(self) -> None:
        """Who has an older epoch gets `FencedError`, at the latest from `flush`, and nothing of theirs is kept."""
        first, second = self.pair()
        old = begun(first)
        first.flush(PATIENCE)
        second.revoke("a")
        epoch = second.acquire("a")
        with pytest.raises(FencedError):
            write_through(first, "a", old, 3, 5)
        assert [event.seq for event in second.read("a")] == [0, 1, 2]
        write_through(second, "a", epoch, 3)
        with pytest.raises(FencedError):
            write_through(first, "a", old, 3)
        assert picture(second, "a")[:3] == (epoch, False, True)
        assert [event.seq for event in second.read("a")] == [0, 1, 2, 3]

    def test_who_was_fenced_is_not_told_that_it_is_written(self) -> None:
        """`when_written` tells what went wrong."""
        first, second = self.pair()
        old = begun(first)
        first.flush(PATIENCE)
        second.revoke("a")
        second.acquire("a")
        with pytest.raises(FencedError):
            write_and_hear(first, "a", old, 3)

    def test_a_log_that_was_lost_harms_no_other(self) -> None:
        """What is refused of one log leaves the others as they are; `flush` tells it once."""
        first, second = self.pair()
        old, other = begun(first), begun(first, "b")
        first.flush(PATIENCE)
        second.revoke("a")
        second.acquire("a")
        with pytest.raises(FencedError):
            write_through(first, "a", old, 3)
        write_through(first, "b", other, 3, 10)
        write_and_hear(first, "b", other, 13)
        assert second.info("b").last == 13

    def test_what_was_released_is_not_written_any_more(self) -> None:
        """`release` lets go of a log without sealing it."""
        store = self.new()
        epoch = begun(store)
        store.release("a", epoch)
        before = album(store)
        assert not before["a"].sealed
        with pytest.raises(RecordingError):
            write_through(store, "a", epoch, 3)
        assert album(store) == before

    def test_who_was_fenced_has_nothing_to_release(self) -> None:
        """`release` does nothing for who is fenced: the log stays with who took it."""
        first, second = self.pair()
        old = begun(first)
        first.flush(PATIENCE)
        second.revoke("a")
        epoch = second.acquire("a")
        first.release("a", old)
        assert second.info("a").alive
        write_through(second, "a", epoch, 3)

    def test_of_two_who_take_a_log_one_goes_on(self) -> None:
        """Of two that take the same log exactly one does; the other gets `RunHeldError`."""
        first, second = self.pair()
        sealed(first)
        first.flush(PATIENCE)
        for turn in range(RACES):
            outcomes = together(lambda: first.acquire("a"), lambda: second.acquire("a"))
            assert {type(outcome) for outcome in outcomes} == {int, RunHeldError}, outcomes
            winner, epoch = (first, outcomes[0]) if isinstance(outcomes[0], int) else (second, outcomes[1])
            assert epoch == turn + 2
            write_through(winner, "a", epoch, 3 + turn)
            winner.release("a", epoch)
            winner.flush(PATIENCE)
        assert [event.seq for event in first.read("a")] == list(range(3 + RACES))

    def test_of_two_who_begin_a_log_one_goes_on(self) -> None:
        """Of two that begin a log of one id exactly one does; the other gets `RunIdInUseError`, at the latest when
        it flushes."""
        first, second = self.pair()
        for turn in range(RACES):
            outcomes = together(partial(_begin, first, str(turn)), partial(_begin, second, str(turn)))
            assert {type(outcome) for outcome in outcomes} == {int, RunIdInUseError}, outcomes
            assert [event.seq for event in second.read(str(turn))] == [0, 1]
        assert first.roots() == [str(turn) for turn in range(RACES)]
