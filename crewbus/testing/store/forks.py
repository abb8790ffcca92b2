"""The contract of a store: forks share what was recorded before them, and nobody breaks them."""

from __future__ import annotations

import pytest

from crewbus.exceptions import RecordingError, RunIdInUseError
from crewbus.stores import LANDMARKS, LogInfo, Store
from crewbus.testing.store.case import PATIENCE, StoreCase, begun, sealed, write_through
from crewbus.testing.store.model import album, picture, stored, write


def _family(store: Store) -> None:
    """``a`` of ten events; ``b`` forked from it at 5, with events of its own to 9; ``c`` from that at 7, to 8."""
    sealed(store, "a", 10)
    for parent, at, fork, last in (("a", 5, "b", 9), ("b", 7, "c", 8)):
        store.fork(parent, at, fork)
        write(store, fork, epoch := store.acquire(fork), at + 1, last - at)
        store.finish(fork, epoch)


def _authors(store: Store, root_id: str) -> str:
    """In whose log each event was written, by a letter."""
    events = list(store.read(root_id))
    assert [event.seq for event in events] == list(range(len(events)))
    return "".join(event.data.decode()[7] for event in events)


class ForkContract(StoreCase):
    """What holds of logs and their forks."""

    def test_a_fork_shares_what_came_before_it(self) -> None:
        """`fork` makes a log that shares the events up to number ``at``, and that nobody holds."""
        store = self.new()
        sealed(store, "a", 6)
        before = picture(store, "a")
        store.fork("a", 3, "b")
        assert store.info("b") == LogInfo("b", 0, 3, False, parent="a", parent_at=3)
        assert list(store.read("b")) == before.events[:4]
        assert picture(store, "a") == before._replace(forks=["b"])
        assert (store.roots(), store.root_of("b")) == (["a", "b"], "b")

    def test_a_fork_and_its_parent_go_on_apart(self) -> None:
        """A fork's own events go on from there, and the parent is untouched."""
        store = self.new()
        epoch = begun(store, "a", 4)
        store.fork("a", 1, "b")
        write(store, "b", taken := store.acquire("b"), 2, 4)
        write(store, "a", epoch, 4)
        store.flush(PATIENCE)
        assert taken == 1
        assert (_authors(store, "a"), _authors(store, "b")) == ("aaaaa", "aabbbb")
        assert (store.info("a").last, store.info("b").last) == (4, 5)
        assert [store.root_of(run_id) for run_id in ("a/nested", "b/nested")] == ["a", "b"]

    def test_a_fork_begins_with_events_of_its_own(self) -> None:
        """``events`` are the first of its own: it has them from the beginning, and they are nobody's else."""
        store = self.new()
        sealed(store, "a", 6)
        own = [stored(seq, "b", data=b"own") for seq in (4, 5)]
        store.fork("a", 3, "b", own)
        assert list(store.read("b"))[4:] == own
        assert (store.info("b").last, store.info("b").parent_at, store.info("b").alive) == (5, 3, False)
        assert len(list(store.read("a"))) == 6
        write_through(store, "b", store.acquire("b"), 6)
        assert store.info("b").last == 6

    def test_a_fork_that_begins_elsewhere_is_not_made(self) -> None:
        """`fork` raises if ``events`` do not go on from ``at``, and makes nothing."""
        store = self.new()
        sealed(store, "a", 6)
        for seqs in ((3,), (5,), (4, 6)):
            with pytest.raises(RecordingError):
                store.fork("a", 3, "b", [stored(seq, "b") for seq in seqs])
        assert (store.roots(), store.root_of("b"), store.forks("a")) == (["a"], None, [])

    def test_the_marks_of_a_fork(self) -> None:
        """`marks` goes from what is its own to what is shared without a seam."""
        store = self.new()
        epoch = store.begin("a")
        for seq in range(6):
            store.append("a", epoch, stored(seq, name="crewbus.CheckpointSaved"))
        store.fork("a", 3, "b", [stored(4, "b"), stored(5, "b", name="crewbus.RunResumed")])
        assert [event.seq for event in store.marks("b")] == [5, 3, 2, 1, 0]
        assert [event.seq for event in store.marks("a")] == [5, 4, 3, 2, 1, 0]

    def test_a_fork_of_a_log_that_is_being_written(self) -> None:
        """A fork may be made of any event that the store was given, written already or not."""
        store = self.new()
        epoch = begun(store, "a", 20)
        store.fork("a", 19, "b")
        write_through(store, "a", epoch, 20)
        assert (_authors(store, "a"), _authors(store, "b")) == ("a" * 21, "a" * 20)

    def test_a_fork_ignores_again_what_it_shares(self) -> None:
        """A repeated ``seq`` is ignored, and a gap refused, as in any log."""
        store = self.new()
        sealed(store, "a", 6)
        store.fork("a", 3, "b")
        epoch = store.acquire("b")
        for seq in (0, 3):
            store.append("b", epoch, stored(seq, data=b"again"))
        with pytest.raises(RecordingError):
            store.append("b", epoch, stored(5))
        write_through(store, "b", epoch, 4)
        assert _authors(store, "b") == "aaaab"

    def test_forks_can_be_forked(self) -> None:
        """Of a fork, what it shares comes first, as it is in the log that it was written to."""
        store = self.new()
        _family(store)
        assert [_authors(store, root) for root in store.roots()] == ["a" * 10, "aaaaaabbbb", "aaaaaabbc"]
        assert [store.forks(root) for root in "abc"] == [["b"], ["c"], []]
        assert (store.info("c").parent, store.info("c").parent_at) == ("b", 7)

    def test_a_fork_point_may_lie_in_what_is_shared(self) -> None:
        """A fork of a fork may share less than that does."""
        store = self.new()
        _family(store)
        for at in range(9):
            store.fork("c", at, f"d{at}")
            assert _authors(store, f"d{at}") == "aaaaaabbc"[: at + 1]
            assert (store.info(f"d{at}").parent, store.info(f"d{at}").parent_at) == ("c", at)
        write_through(store, "d2", store.acquire("d2"), 3, 2)
        assert _authors(store, "d2") == "aaadd"
        assert _authors(store, "c") == "aaaaaabbc"

    def test_each_part_of_a_fork_is_found(self) -> None:
        """`read`, `landmarks` and `event` go from what is shared to what is its own without a seam."""
        store = self.new()
        _family(store)
        for root in "abc":
            events = list(store.read(root))
            assert [store.event(root, seq) for seq in range(len(events))] == events
            for after in range(-1, 11):
                assert list(store.read(root, after)) == events[after + 1 :]
                assert list(store.landmarks(root, after)) == [e for e in events[after + 1 :] if e.name in LANDMARKS]
        assert [event.seq for event in store.landmarks("b")] == [4, 9]

    def test_there_is_no_fork_of_what_is_not_there(self) -> None:
        """`fork` raises `RecordingError` if there is no event ``at``, and no log comes about."""
        store = self.new()
        sealed(store)
        store.begin("empty")
        for root, at in (("a", -1), ("a", 3), ("a", 2**40), ("empty", -1), ("empty", 0)):
            with pytest.raises(RecordingError):
                store.fork(root, at, "b")
        assert store.roots() == ["a", "empty"]
        assert store.root_of("b") is None

    def test_a_fork_needs_an_id_of_its_own(self) -> None:
        """`fork` raises `RunIdInUseError` if the store has that run, be it nested."""
        store = self.new()
        sealed(store, "a", 5)
        sealed(store, "c")
        before = album(store)
        for fork in ("a", "c", "a/nested"):
            with pytest.raises(RunIdInUseError):
                store.fork("a", 1, fork)
        assert album(store) == before
        store.fork("a", 1, "b")
        with pytest.raises(RunIdInUseError):
            store.begin("b")

    def test_the_forks_of_a_log_oldest_first(self) -> None:
        """`forks` lists the logs forked from this one, not theirs, oldest first."""
        store = self.new()
        sealed(store)
        for fork in "zbx":
            store.fork("a", 1, fork)
        store.fork("b", 1, "grandchild")
        assert store.forks("a") == ["z", "b", "x"]
        store.drop("z")
        assert store.forks("a") == ["b", "x"]

    def test_a_log_that_a_fork_needs_is_not_dropped(self) -> None:
        """`drop` raises `RecordingError` while a fork needs the log; from the youngest on, all can be dropped."""
        store = self.new()
        _family(store)
        before = album(store)
        for root in "ab":
            with pytest.raises(RecordingError):
                store.drop(root)
        assert album(store) == before
        for root in "cba":
            store.drop(root)
        assert store.roots() == []
        begun(store, "b")

    def test_dropping_a_fork_leaves_its_parent(self) -> None:
        """What is shared belongs to the log that it was written to."""
        store = self.new()
        _family(store)
        for fork, left in (("c", ["aaaaaaaaaa", "aaaaaabbbb"]), ("b", ["aaaaaaaaaa"])):
            store.drop(fork)
            assert [_authors(store, root) for root in store.roots()] == left
        assert (store.root_of("a/nested"), store.root_of("b/nested")) == ("a", None)
