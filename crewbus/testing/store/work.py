"""The contract of a store: logs that nobody holds, and who may take them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from functools import partial
from typing import Final

import pytest

from crewbus.exceptions import RecordingError, RunIdInUseError
from crewbus.stores import LANDMARKS, MOST_STALLS, Cap, Claim, Claimed, LogInfo, Store
from crewbus.testing.store.case import PATIENCE, StoreCase, begin_log, call_concurrently, write_and_flush
from crewbus.testing.store.model import all_logs, first_events, stored, write

LATER: Final = time.time() + 10_000_000
"""A time that does not come during a test."""
RACES: Final = 20


def create(store: Store, root_id: str, until: float | None = None, **tags: str) -> None:
    """Create a log of three events whose run has tags."""
    store.create(root_id, first_events(root_id, 3, **tags), until)


def claimed(store: Store, limit: int = 100, caps: tuple[Cap, ...] = (), **tags: Iterable[str]) -> list[str]:
    """The ids of the logs that a claim takes."""
    accepted = {tag: frozenset(values) for tag, values in tags.items()}
    return [root_id for root_id, _ in store.claim(Claim(limit, accepted, caps))]


def _begin_and_flush(store: Store, root_id: str) -> None:
    store.begin(root_id)
    store.flush(PATIENCE)


class WorkContract(StoreCase):
    """What a store does with logs that wait for somebody to take them."""

    # Creating

    def test_a_created_log_has_its_events_and_no_holder(self) -> None:
        """`create` makes a log with its first events, which anyone may read, and acquire."""
        store, other = self.pair()
        events = first_events("a", 3, queue="default")
        store.create("a", events)
        assert list(other.read("a")) == events
        assert [event.seq for event in other.landmarks("a")] == [e.seq for e in events if e.name in LANDMARKS]
        info = other.info("a")
        assert (info.last, info.sealed, info.alive, info.parent, info.due) == (2, False, False, None, None)
        assert (other.roots(), other.root_of("a"), other.posted("a")) == (["a"], "a", [])
        epoch = other.acquire("a")
        assert epoch == info.epoch + 1
        write_and_flush(other, "a", epoch, 3)

    def test_a_created_log_was_never_taken(self) -> None:
        """Its epoch is 0."""
        store = self.new_sharing_work()
        create(store, "a")
        assert store.info("a") == LogInfo("a", 0, 2, False)
        create(store, "b", LATER)
        assert store.info("b") == LogInfo("b", 0, 2, False, due=LATER)

    def test_creating_a_log_needs_an_unused_id(self) -> None:
        """`create` raises `RunIdInUseError` for the id of any run, and then leaves all as it was; so a call can be
        repeated when its answer was lost."""
        store, other = self.pair()
        create(store, "a")
        write_and_flush(other, "a", epoch := other.acquire("a"), 3, 2)
        other.release("a", epoch)
        before = all_logs(other)
        for root_id in ("a", "a/nested"):
            with pytest.raises(RunIdInUseError):
                create(other, root_id)
        assert all_logs(other) == before
        with pytest.raises(RunIdInUseError):
            _begin_and_flush(store, "a")

    def test_a_log_is_not_created_from_events_that_are_not_its_first(self) -> None:
        """`create` raises `RecordingError` if there are no events, or they are not numbered from 0."""
        store = self.new()
        for seqs in ((), (1,), (0, 2), (0, 0)):
            with pytest.raises(RecordingError):
                store.create("a", [stored(seq) for seq in seqs])
        assert store.roots() == []
        create(store, "a")

    def test_of_two_creating_a_log_one_succeeds(self) -> None:
        """The other gets `RunIdInUseError`."""
        first, second = self.pair()
        for turn in range(RACES):
            outcomes = call_concurrently(partial(create, first, f"{turn}"), partial(create, second, f"{turn}"))
            assert {type(outcome) for outcome in outcomes} == {type(None), RunIdInUseError}, outcomes
            assert second.info(f"{turn}").last == 2

    # Claiming

    def test_logs_are_claimed_oldest_first(self) -> None:
        """`claim` takes at most ``limit`` logs, the oldest first, and gives them with their epochs."""
        store, other = self.pair()
        for root_id in "cab":
            create(store, root_id)
        before = {root_id: store.info(root_id).epoch for root_id in "cab"}
        assert other.claim(Claim(limit=0)) == []
        taken = other.claim(Claim(limit=2))
        assert taken == [Claimed("c", before["c"] + 1), Claimed("a", before["a"] + 1)]
        assert [store.info(root_id).alive for root_id in "cab"] == [True, True, False]
        write_and_flush(other, "c", taken[0].epoch, 3)
        assert other.has_lease("c", taken[0].epoch)
        other.confirm("c", taken[0].epoch)
        assert claimed(store) == ["b"]
        assert claimed(store) == []

    def test_a_released_log_is_claimed_again(self) -> None:
        """A log that was released or revoked, whoever took it before, is claimed; its former holder is fenced."""
        store, other = self.pair()
        epoch = begin_log(store)
        store.flush(PATIENCE)
        assert claimed(other) == []
        store.release("a", epoch)
        assert other.claim(Claim()) == [Claimed("a", 2)]
        store.revoke("a")
        assert store.claim(Claim()) == [Claimed("a", 3)]
        with pytest.raises(RecordingError):
            write_and_flush(other, "a", 2, 3)
        write_and_flush(store, "a", 3, 3)

    def test_what_has_ended_is_not_claimed(self) -> None:
        """Neither a sealed log, nor one whose run has ended and whose holder died before it sealed it."""
        store = self.new()
        store.finish("a", begin_log(store))
        epoch = begin_log(store, "b")
        store.append("b", epoch, stored(3, "b", name="crewbus.RunFinished"))
        store.release("b", epoch)
        store.flush(PATIENCE)
        assert claimed(store) == []
        store.append("b", epoch := store.acquire("b"), stored(4, "b", name="crewbus.RunResumed"))
        store.release("b", epoch)
        assert claimed(store) == ["b"]

    def test_a_suspended_log_is_claimed(self) -> None:
        """A run that was suspended has not ended, however long ago; one that was cancelled then has."""
        store = self.new()
        epoch = begin_log(store)
        for seq in range(3, 6):
            store.append("a", epoch, stored(seq, name="crewbus.RunSuspended"))
            store.release("a", epoch)
            assert store.claim(Claim()) == [Claimed("a", epoch + 1)]
            epoch += 1
        store.append("a", epoch, stored(6, name="crewbus.RunCancelled"))
        store.release("a", epoch)
        assert claimed(store) == []

    def test_a_log_without_events_is_not_claimed(self) -> None:
        """It does not say yet what it is."""
        store = self.new()
        store.release("a", store.begin("a"))
        assert claimed(store) == []

    def test_a_fork_is_claimed_once_it_was_acquired(self) -> None:
        """Until then it is for whoever forked it."""
        store = self.new()
        store.finish("a", begin_log(store))
        store.fork("a", 1, "b")
        assert claimed(store) == []
        store.release("b", store.acquire("b"))
        assert claimed(store) == ["b"]

    def test_logs_are_claimed_by_tags(self) -> None:
        """A log is taken if its run has each of the tags, with one of the values that are accepted."""
        store, other = self.pair()
        create(store, "a", queue="x", kind="1")
        create(store, "b", queue="y")
        create(store, "c", queue="z", kind="1")
        create(store, "d", kind="1")
        assert claimed(other, queue="w") == []
        assert claimed(other, queue="xy", kind="1") == ["a"]
        assert claimed(other, queue="xyz", limit=1) == ["b"]
        assert claimed(other, queue="xyz") == ["c"]
        assert claimed(other) == ["d"]

    def test_caps_limit_what_is_alive(self) -> None:
        """No claim has more logs alive for a value of the tag than a cap says, whichever store took the others."""
        store, other = self.pair()
        for number in range(4):
            create(store, f"p{number}", key="p")
            create(store, f"q{number}", key="q")
        create(store, "free")
        caps = (Cap("key", 2), Cap("other", 0))
        epoch = store.acquire("p3")
        assert claimed(other, caps=caps, limit=2) == ["p0", "q0"]
        assert claimed(store, caps=caps) == ["q1", "free"]
        assert claimed(other, caps=caps) == []
        store.finish("p3", epoch)
        assert claimed(store, caps=caps) == ["p1"]
        other.revoke("q0")
        assert claimed(store, caps=caps) == ["q0"]
        assert claimed(store, caps=(Cap("key", 3), Cap("key", 3)), limit=1) == ["p2"]
        assert claimed(store) == ["q2", "q3"]

    def test_of_two_claiming_each_log_has_one_holder(self) -> None:
        """Concurrent claims never take the same log, and leave none."""
        first, second = self.pair()
        for turn in range(RACES):
            roots = [f"{turn}/{number}" for number in range(6)]
            for root_id in roots:
                create(first, root_id)
            outcomes = call_concurrently(*(partial(claimed, store, 3) for store in (first, second)))
            assert sorted(root_id for one in outcomes for root_id in one) == roots, outcomes

    def test_concurrent_claims_keep_their_caps(self) -> None:
        """Two claims at the same time do not have more alive together than the cap says."""
        first, second = self.pair_sharing_work()
        for turn in range(RACES):
            for number in range(4):
                create(first, f"{turn}/{number}", key=f"{turn}")
            claim = partial(claimed, caps=(Cap("key", 3),), key=[f"{turn}"])
            outcomes = call_concurrently(*(partial(claim, store, 2) for store in (first, second)))
            assert sorted(root_id for one in outcomes for root_id in one) == [f"{turn}/{n}" for n in range(3)], outcomes

    # Waiting until a time

    def test_a_log_is_not_claimed_before_it_is_due(self) -> None:
        """`release` and `create` say until when a log waits; `acquire` takes it all the same."""
        store, other = self.pair_sharing_work()
        create(store, "a", LATER)
        create(store, "b", 1.5)
        create(store, "c")
        assert [store.info(root_id).due for root_id in "abc"] == [LATER, 1.5, None]
        assert claimed(other) == ["b", "c"]
        assert other.info("b").due is None
        other.release("b", 1, math.inf)
        other.release("c", 1, 2.5)
        assert [store.info(root_id).due for root_id in "bc"] == [math.inf, 2.5]
        assert claimed(store) == ["c"]
        assert store.acquire("b") == 2
        store.release("b", 2)
        assert store.info("b").due is None
        assert claimed(store) == ["b"]
        with pytest.raises(RecordingError):
            store.release("b", 3, math.nan)
        with pytest.raises(RecordingError):
            create(store, "d", math.nan)

    def test_release_by_a_fenced_holder_does_not_make_a_log_wait(self) -> None:
        """It is ignored whole."""
        store = self.new_sharing_work()
        create(store, "a")
        old = store.acquire("a")
        store.revoke("a")
        epoch = store.acquire("a")
        store.release("a", old, LATER)
        assert (store.info("a").alive, store.info("a").due) == (True, None)
        write_and_flush(store, "a", epoch, 3)

    # Getting nowhere

    def test_a_log_that_stalls_is_left_alone(self) -> None:
        """A log that was taken `MOST_STALLS` times without getting on is claimed no more; `acquire` still takes it."""
        store = self.new_sharing_work()
        create(store, "a")
        for turn in range(MOST_STALLS):
            assert store.info("a").stalls == turn
            ((_, epoch),) = store.claim(Claim())
            store.append("a", epoch, stored(3 + turn))
            store.release("a", epoch)
        assert claimed(store) == []
        epoch = store.acquire("a")
        assert store.info("a").stalls == MOST_STALLS + 1
        store.append("a", epoch, stored(8, name="crewbus.StepFinished"))
        store.release("a", epoch)
        assert store.info("a").stalls == 0
        assert claimed(store) == ["a"]

    def test_a_log_that_gets_on_does_not_stall(self) -> None:
        """A step that ended, whatever its outcome, and a run that ended have `LogInfo.stalls` be 0."""
        store = self.new_sharing_work()
        epoch = store.begin("a")
        write(store, "a", epoch, 0, 2)
        for seq, name in enumerate(("crewbus.StepFinished", "crewbus.StepFailed"), 2):
            store.release("a", epoch)
            epoch = store.acquire("a")
            assert store.info("a").stalls == 1
            store.append("a", epoch, stored(seq, name=name))
            assert store.info("a").stalls == 0
        store.release("a", epoch)
        epoch = store.acquire("a")
        store.finish("a", epoch)
        assert (store.info("a").stalls, store.info("a").sealed) == (0, True)
