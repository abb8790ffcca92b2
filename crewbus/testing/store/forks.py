"""The contract of a store: forks share the events recorded before them, and stay complete."""

from __future__ import annotations

import pytest

from crewbus.exceptions import RecordingError, RunIdInUseError
from crewbus.stores import LANDMARKS, LogInfo, Store
from crewbus.testing.store.case import PATIENCE, StoreCase, begin_log, write_and_flush, write_finished_log
from crewbus.testing.store.model import all_logs, log_state, stored, write


def _make_family(store: Store) -> None:
    """``a`` of ten events; ``b`` forked from it at 5, with events of its own to 9; ``c`` from that at 7, to 8."""
    write_finished_log(store, "a", 10)
    for parent, at, fork, last in (("a", 5, "b", 9), ("b", 7, "c", 8)):
        store.fork(parent, at, fork)
        write(store, fork, epoch := store.acquire(fork), at + 1, last - at)
        store.finish(fork, epoch)


def _authors(store: Store, root_id: str) -> str:
    """For each event, the letter of the log that it was written to."""
    events = list(store.read(root_id))
    assert [event.seq for event in events] == list(range(len(events)))
    return "".join(event.data.decode()[7] for event in events)


class ForkContract(StoreCase):
    """What a store does with logs and their forks."""

    def test_a_fork_shares_the_events_before_it(self) -> None:
        """`fork` makes a log that shares the events up to number ``at``, and that has no holder."""
        store = self.new()
        write_finished_log(store, "a", 6)
        before = log_state(store, "a")
        store.fork("a", 3, "b")
        assert store.info("b") == LogInfo("b", 0, 3, False, parent="a", parent_at=3)
        assert list(store.read("b")) == before.events[:4]
        assert log_state(store, "a") == before._replace(forks=["b"])
        assert (store.roots(), store.root_of("b")) == (["a", "b"], "b")

    def test_a_fork_and_its_parent_grow_independently(self) -> None:
        """A fork's own events follow the shared ones, and its parent is unchanged."""
        store = self.new()
        epoch = begin_log(store, "a", 4)
        store.fork("a", 1, "b")
        write(store, "b", taken := store.acquire("b"), 2, 4)
        write(store, "a", epoch, 4)
        store.flush(PATIENCE)
        assert taken == 1
        assert (_authors(store, "a"), _authors(store, "b")) == ("aaaaa", "aabbbb")
        assert (store.info("a").last, store.info("b").last) == (4, 5)
        assert [store.root_of(run_id) for run_id in ("a/nested", "b/nested")] == ["a", "b"]

    def test_a_fork_may_begin_with_events_of_its_own(self) -> None:
        """``events`` are the first of the fork's own events; its parent does not get them."""
        store = self.new()
        write_finished_log(store, "a", 6)
        own = [stored(seq, "b", data=b"own") for seq in (4, 5)]
        store.fork("a", 3, "b", own)
        assert list(store.read("b"))[4:] == own
        assert (store.info("b").last, store.info("b").parent_at, store.info("b").alive) == (5, 3, False)
        assert len(list(store.read("a"))) == 6
        write_and_flush(store, "b", store.acquire("b"), 6)
        assert store.info("b").last == 6

    def test_a_fork_whose_events_leave_a_gap_is_refused(self) -> None:
        """`fork` raises `RecordingError` if ``events`` do not continue at ``at``, and makes no log."""
        store = self.new()
        write_finished_log(store, "a", 6)
        for seqs in ((3,), (5,), (4, 6)):
            with pytest.raises(RecordingError):
                store.fork("a", 3, "b", [stored(seq, "b") for seq in seqs])
        assert (store.roots(), store.root_of("b"), store.forks("a")) == (["a"], None, [])

    def test_marks_of_a_fork_include_the_shared_ones(self) -> None:
        """`marks` gives the fork's own marks, then the shared ones."""
        store = self.new()
        epoch = store.begin("a")
        for seq in range(6):
            store.append("a", epoch, stored(seq, name="crewbus.CheckpointSaved"))
        store.fork("a", 3, "b", [stored(4, "b"), stored(5, "b", name="crewbus.RunResumed")])
        assert [event.seq for event in store.marks("b")] == [5, 3, 2, 1, 0]
        assert [event.seq for event in store.marks("a")] == [5, 4, 3, 2, 1, 0]

    def test_a_log_in_progress_can_be_forked(self) -> None:
        """A log can be forked at any event that was appended, whether it is written yet or not."""
        store = self.new()
        epoch = begin_log(store, "a", 20)
        store.fork("a", 19, "b")
        write_and_flush(store, "a", epoch, 20)
        assert (_authors(store, "a"), _authors(store, "b")) == ("a" * 21, "a" * 20)

    def test_a_fork_ignores_repeated_shared_events(self) -> None:
        """A repeated ``seq`` is ignored, and a gap refused, as in any log."""
        store = self.new()
        write_finished_log(store, "a", 6)
        store.fork("a", 3, "b")
        epoch = store.acquire("b")
        for seq in (0, 3):
            store.append("b", epoch, stored(seq, data=b"again"))
        with pytest.raises(RecordingError):
            store.append("b", epoch, stored(5))
        write_and_flush(store, "b", epoch, 4)
        assert _authors(store, "b") == "aaaab"

    def test_forks_can_be_forked(self) -> None:
        """A fork reads its shared events first, as they are in the log that they were written to."""
        store = self.new()
        _make_family(store)
        assert [_authors(store, root) for root in store.roots()] == ["a" * 10, "aaaaaabbbb", "aaaaaabbc"]
        assert [store.forks(root) for root in "abc"] == [["b"], ["c"], []]
        assert (store.info("c").parent, store.info("c").parent_at) == ("b", 7)

    def test_a_fork_point_may_lie_in_the_shared_part(self) -> None:
        """A fork of a fork may share less than that does."""
        store = self.new()
        _make_family(store)
        for at in range(9):
            store.fork("c", at, f"d{at}")
            assert _authors(store, f"d{at}") == "aaaaaabbc"[: at + 1]
            assert (store.info(f"d{at}").parent, store.info(f"d{at}").parent_at) == ("c", at)
        write_and_flush(store, "d2", store.acquire("d2"), 3, 2)
        assert _authors(store, "d2") == "aaadd"
        assert _authors(store, "c") == "aaaaaabbc"

    def test_all_parts_of_a_fork_are_read(self) -> None:
        """`read`, `landmarks` and `event` find the shared events and the fork's own."""
        store = self.new()
        _make_family(store)
        for root in "abc":
            events = list(store.read(root))
            assert [store.event(root, seq) for seq in range(len(events))] == events
            for after in range(-1, 11):
                assert list(store.read(root, after)) == events[after + 1 :]
                assert list(store.landmarks(root, after)) == [e for e in events[after + 1 :] if e.name in LANDMARKS]
        assert [event.seq for event in store.landmarks("b")] == [4, 9]

    def test_forking_at_a_missing_event_is_refused(self) -> None:
        """`fork` raises `RecordingError` if there is no event ``at``, and makes no log."""
        store = self.new()
        write_finished_log(store)
        store.begin("empty")
        for root, at in (("a", -1), ("a", 3), ("a", 2**40), ("empty", -1), ("empty", 0)):
            with pytest.raises(RecordingError):
                store.fork(root, at, "b")
        assert store.roots() == ["a", "empty"]
        assert store.root_of("b") is None

    def test_a_fork_needs_an_unused_id(self) -> None:
        """`fork` raises `RunIdInUseError` if the store has that run, even as a nested one."""
        store = self.new()
        write_finished_log(store, "a", 5)
        write_finished_log(store, "c")
        before = all_logs(store)
        for fork in ("a", "c", "a/nested"):
            with pytest.raises(RunIdInUseError):
                store.fork("a", 1, fork)
        assert all_logs(store) == before
        store.fork("a", 1, "b")
        with pytest.raises(RunIdInUseError):
            store.begin("b")

    def test_forks_are_listed_oldest_first(self) -> None:
        """`forks` lists the direct forks of a log, oldest first."""
        store = self.new()
        write_finished_log(store)
        for fork in "zbx":
            store.fork("a", 1, fork)
        store.fork("b", 1, "grandchild")
        assert store.forks("a") == ["z", "b", "x"]
        store.drop("z")
        assert store.forks("a") == ["b", "x"]

    def test_a_log_with_forks_is_not_dropped(self) -> None:
        """`drop` raises `RecordingError` while the log has forks; the youngest can be dropped first."""
        store = self.new()
        _make_family(store)
        before = all_logs(store)
        for root in "ab":
            with pytest.raises(RecordingError):
                store.drop(root)
        assert all_logs(store) == before
        for root in "cba":
            store.drop(root)
        assert store.roots() == []
        begin_log(store, "b")

    def test_dropping_a_fork_leaves_its_parent(self) -> None:
        """Shared events belong to the log that they were written to, and stay there."""
        store = self.new()
        _make_family(store)
        for fork, left in (("c", ["aaaaaaaaaa", "aaaaaabbbb"]), ("b", ["aaaaaaaaaa"])):
            store.drop(fork)
            assert [_authors(store, root) for root in store.roots()] == left
        assert (store.root_of("a/nested"), store.root_of("b/nested")) == ("a", None)
