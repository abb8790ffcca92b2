"""The contract of a store: logs are found by state, name, tag and time, the newest first."""

from __future__ import annotations

import json
import threading
from itertools import islice
from typing import Any, Final

import pytest

from crewbus.exceptions import RunNotFoundError
from crewbus.stores import END_STATES, STATES, LogFilter, LogPart, Store, StoredEvent
from crewbus.testing.store.case import PATIENCE, StoreCase, begin_log, call_concurrently, write_finished_log
from crewbus.testing.store.model import stored, write

FINISHED: Final = "crewbus.RunFinished"
FAILED: Final = "crewbus.RunFailed"
RESUMED: Final = "crewbus.RunResumed"
MANY: Final = 700


def started(run_id: str, name: str | None = None, tags: Any = None, at: float = 1.5) -> StoredEvent:
    """The start of a run."""
    data = json.dumps({"name": name, "tags": tags or {}, "parent_run": None}).encode()
    return StoredEvent(run_id, 0, None, at, None, 0, "crewbus.RunStarted", 1, data)


def begin_run(store: Store, root_id: str, name: str | None = None, at: float = 1.5, **tags: str) -> int:
    """Begin the log of a run that says its name and tags, and return its epoch."""
    epoch = store.begin(root_id)
    store.append(root_id, epoch, started(root_id, name, tags, at))
    return epoch


def end_run(store: Store, root_id: str, epoch: int, name: str = FINISHED) -> None:
    """Append the end of a run, and seal its log."""
    store.append(root_id, epoch, stored(store.info(root_id).last + 1, root_id, b"{}", name))
    store.finish(root_id, epoch)


def found(store: Store, **query: Any) -> list[str]:
    """The ids of the logs that match."""
    states = query.pop("states", None)
    return [one.info.root_id for one in store.find(LogFilter(None if states is None else frozenset(states), **query))]


def by_state(store: Store) -> dict[str, list[str]]:
    """The ids of the logs in each state that a log is in."""
    looked = {state: found(store, states=[state]) for state in sorted(STATES)}
    return {state: ids for state, ids in looked.items() if ids}


class ListingContract(StoreCase):
    """What a store says of many logs, and of one without reading it."""

    def test_logs_are_found_newest_first(self) -> None:
        """`find` gives the logs that have events, the newest first, and no more than ``limit``."""
        store = self.new()
        for root_id in "cab":
            write_finished_log(store, root_id)
        store.begin("empty")
        store.fork("c", 1, "fork")
        assert found(store) == ["fork", "b", "a", "c"]
        assert [found(store, limit=limit) for limit in (0, 1, 3)] == [[], ["fork"], ["fork", "b", "a"]]
        store.drop("b")
        assert found(store) == ["fork", "a", "c"]

    def test_a_summary_says_what_a_log_is(self) -> None:
        """`summary` has the log's state, event 0, the times of its first and last event, and the end of its run."""
        store = self.new()
        epoch = begin_run(store, "a", at=10.0)
        store.append("a", epoch, stored(1)._replace(at=20.0))
        summary = store.summary("a")
        assert tuple(summary) == (store.info("a"), started("a", at=10.0), 10.0, 20.0, None)
        assert (summary.state, summary.info.last) == ("running", 1)
        end_run(store, "a", epoch, FAILED)
        summary = store.summary("a")
        assert (summary.info, summary.first, summary.begun) == (store.info("a"), started("a", at=10.0), 10.0)
        assert (summary.at, summary.end, summary.state) == (1.5, store.event("a", 2), "failed")
        assert list(store.find(LogFilter())) == [summary]

    def test_a_log_without_events_has_no_summary(self) -> None:
        """`summary` raises `RunNotFoundError` for a log without events, as for one that is not there."""
        store = self.new()
        store.begin("empty")
        for root_id in ("empty", "none"):
            with pytest.raises(RunNotFoundError):
                store.summary(root_id)

    def test_the_state_follows_the_end_of_the_root_run(self) -> None:
        """The last end or resume of the root run decides, once the log has no holder; ends of nested runs do not."""
        store = self.new()
        for name, state in END_STATES.items():
            end_run(store, state, begin_run(store, state), name)
        epochs = {root_id: begin_run(store, root_id) for root_id in ("running", "interrupted", "nested", "sealed")}
        store.append("nested", epochs["nested"], stored(1, "inner", b"{}", FINISHED))
        for root_id in ("interrupted", "nested"):
            store.release(root_id, epochs[root_id])
        store.finish("sealed", epochs["sealed"])
        ended = {state: [state] for state in END_STATES.values()}
        assert by_state(store) == {**ended, "running": ["running"], "interrupted": ["sealed", "nested", "interrupted"]}
        both = {"failed", "interrupted"}
        assert found(store, states=both) == ["sealed", "nested", "interrupted", "failed"]
        assert found(store, states=both, limit=2) == ["sealed", "nested"]

    def test_a_log_that_is_taken_again_is_running(self) -> None:
        """A log is running while it has a holder, until it is sealed; without a new resume its former end counts."""
        store = self.new()
        end_run(store, "a", begin_run(store, "a"), FAILED)
        write_finished_log(store, "b")
        epoch = store.acquire("a")
        assert by_state(store) == {"running": ["a"], "interrupted": ["b"]}
        store.release("a", epoch)
        assert by_state(store) == {"failed": ["a"], "interrupted": ["b"]}
        epoch = store.acquire("a")
        store.append("a", epoch, stored(2, "a", b"{}", RESUMED))
        store.release("a", epoch)
        assert by_state(store) == {"interrupted": ["b", "a"]}
        epoch = store.acquire("a")
        store.append("a", epoch, stored(3, "a", b"{}", FINISHED))
        assert by_state(store) == {"running": ["a"], "interrupted": ["b"]}
        store.revoke("a")
        assert by_state(store) == {"finished": ["a"], "interrupted": ["b"]}

    def test_a_fork_has_its_own_end(self) -> None:
        """A fork has the name and tags of its parent, and not its end; it begins with its first own event."""
        store = self.new()
        end_run(store, "a", begin_run(store, "a", "crew", 10.0, tenant="7"))
        store.fork("a", 1, "b")
        store.fork("b", 1, "c", [stored(2, "c")._replace(at=30.0)])
        assert by_state(store) == {"finished": ["a"], "interrupted": ["c", "b"]}
        assert found(store, name="crew", tags={"tenant": "7"}) == ["c", "b", "a"]
        assert [(one.begun, one.at) for one in store.find(LogFilter())] == [(30.0, 30.0), (1.5, 1.5), (10.0, 1.5)]
        assert {one.first for one in store.find(LogFilter())} == {started("a", "crew", {"tenant": "7"}, 10.0)}
        epoch = store.acquire("b")
        store.append("b", epoch, stored(2, "b")._replace(at=40.0))
        store.release("b", epoch)
        assert (store.summary("b").begun, found(store, since=35.0)) == (40.0, ["b"])
        end_run(store, "b", store.acquire("b"), FAILED)
        assert by_state(store) == {"finished": ["a"], "failed": ["b"], "interrupted": ["c"]}

    def test_logs_are_found_by_name_and_tags(self) -> None:
        """A log matches if its root run has that name and at least these tags."""
        store = self.new()
        begin_run(store, "a", "crew", tenant="7", user="1")
        begin_run(store, "b", "crew", tenant="8")
        end_run(store, "c", begin_run(store, "c", "other", tenant="7"))
        begin_run(store, "d")
        assert [found(store, name=name) for name in ("crew", "other", "none", "")] == [["b", "a"], ["c"], [], []]
        assert found(store, tags={"tenant": "7"}) == ["c", "a"]
        assert found(store, tags={"tenant": "7", "user": "1"}) == ["a"]
        assert found(store, tags={"tenant": "9"}) == found(store, tags={"user": "7"}) == []
        assert found(store, name="crew", tags={"tenant": "7"}, states=["running"], limit=1) == ["a"]
        assert found(store, tags={"tenant": "7"}, states=["finished"]) == ["c"]
        store.drop("c")
        assert (found(store, name="other"), found(store, tags={"tenant": "7"})) == ([], ["a"])

    def test_a_start_that_can_not_be_read_has_no_name(self) -> None:
        """A log whose event 0 is anything else than the start of a run is found, but by no name and no tag."""
        store = self.new()
        odd = [b"", b"\xff", b"[]", b'{"name": 1, "tags": 2}', b'{"tags": {"tenant": 7}}']
        for number, data in enumerate(odd):
            store.append(f"{number}", store.begin(f"{number}"), started(f"{number}")._replace(data=data))
        other = started("other", "crew", {"tenant": "7"})._replace(name="test.Event")
        store.append("other", store.begin("other"), other)
        assert found(store) == ["other", "4", "3", "2", "1", "0"]
        assert found(store, name="crew") == found(store, tags={"tenant": "7"}) == found(store, name="1") == []

    def test_any_text_is_a_name(self) -> None:
        """Names and tags are any text, and equal only to themselves."""
        store = self.new()
        texts = ["", "a\0b", "a", "🚌", "'; --", "x" * 1000, "A"]
        for number, text in enumerate(texts):
            begin_run(store, f"{number}", text, key=text)
        for number, text in enumerate(texts):
            assert found(store, name=text) == found(store, tags={"key": text}) == [f"{number}"]

    def test_logs_are_found_by_time(self) -> None:
        """``since`` is the least time of a log's first own event, in whatever order the logs were made."""
        store = self.new()
        times = [30.0, 10.0, float("-inf"), 20.0, float("nan"), 40.0, -1.0, float("inf"), 10.0]
        for number, at in enumerate(times):
            begin_run(store, f"{number}", "crew", at)
        for since in (-2.0, 10.0, 15.0, 35.0, 1e300):
            expected = [f"{number}" for number, at in enumerate(times) if at >= since][::-1]
            assert found(store, since=since) == found(store, name="crew", since=since) == expected
        assert found(store, since=10.0, limit=2) == ["8", "7"]

    def test_a_log_may_begin_late(self) -> None:
        """The newest log is the one that was begun last, whenever its first event follows."""
        store = self.new()
        first = store.begin("a")
        begin_run(store, "b", "crew", 10.0)
        store.flush(PATIENCE)
        store.append("a", first, started("a", "crew", {}, 20.0))
        assert found(store) == found(store, name="crew") == ["b", "a"]
        assert found(store, since=15.0) == found(store, name="crew", since=15.0) == ["a"]

    def test_many_logs_are_found(self) -> None:
        """Any number of logs can be listed, whether they are begun, ended or dropped while it is listed."""
        store = self.new()
        for number in range(MANY):
            epoch = begin_run(store, f"{number}", f"{number % 2}", float(number))
            if number % 3:
                end_run(store, f"{number}", epoch)
        expected = [f"{number}" for number in reversed(range(MANY))]
        assert found(store) == expected
        assert found(store, states=["running"]) == [f"{number}" for number in reversed(range(0, MANY, 3))]
        odd = [f"{number}" for number in reversed(range(MANY)) if number % 6 == 3]
        assert found(store, name="1", states=["running"], limit=2) == odd[:2]
        listing = store.find(LogFilter())
        newest = [one.info.root_id for one in islice(listing, 10)]
        store.drop(f"{MANY - 300}")
        begin_run(store, "new")
        rest = [one.info.root_id for one in listing]
        assert newest == expected[:10]
        assert [root_id for root_id in expected if root_id not in newest + rest] in ([], [f"{MANY - 300}"])
        assert len({*newest, *rest}) == len(newest) + len(rest)

    def test_listing_during_writing(self) -> None:
        """A listing has each run that was there all the time once, whatever else is written meanwhile."""
        store, other = self.pair()
        for number in range(40):
            end_run(store, f"{number}", begin_run(store, f"{number}"))
        store.flush(PATIENCE)
        done = threading.Event()

        def resume() -> None:
            try:
                for number in range(40):
                    epoch = store.acquire(f"{number}")
                    store.append(f"{number}", epoch, stored(2, f"{number}", b"{}", RESUMED))
                    end_run(store, f"{number}", epoch, FAILED)
                store.flush(PATIENCE)
            finally:
                done.set()

        def look() -> int:
            looks = 0
            while not done.is_set() or not looks:
                assert found(other) == [f"{number}" for number in reversed(range(40))]
                looks += 1
            return looks

        outcomes = call_concurrently(resume, look, look)
        assert outcomes[0] is None
        assert all(isinstance(outcome, int) for outcome in outcomes[1:]), outcomes
        assert by_state(other) == {"failed": [f"{number}" for number in reversed(range(40))]}

    def test_what_was_found_is_found_again(self) -> None:
        """What another process wrote is found like one's own, and after the store was closed."""
        self.skip_unless_survives()
        store = self.new()
        end_run(store, "a", begin_run(store, "a", "crew", tenant="7"))
        begin_run(store, "b", "crew")
        store.flush(PATIENCE)
        other = self.new()
        assert by_state(other) == {"finished": ["a"], "running": ["b"]}
        store.close()
        assert by_state(other) == {"finished": ["a"], "interrupted": ["b"]}
        assert (found(other, name="crew"), found(other, tags={"tenant": "7"})) == (["b", "a"], ["a"])
        assert {one.info.holder for one in other.find(LogFilter())} == {None}

    def test_a_listing_names_the_holder(self) -> None:
        """The summaries of logs have the same state as `info`, with their holders."""
        store, other = self.pair()
        for root_id in ("a", "b"):
            begin_run(store, root_id)
        store.flush(PATIENCE)
        summaries = list(other.find(LogFilter()))
        assert [one.info._replace(until=None) for one in summaries] == [
            other.info(root_id)._replace(until=None) for root_id in ("b", "a")
        ]

    # Where the events of forks are

    def test_parts_say_where_events_are(self) -> None:
        """`parts` has the logs that the events of a log were written to, oldest first, its own the last."""
        store = self.new()
        write(store, "a", begin_log(store, "a", 6), 6)
        store.fork("a", 3, "b")
        assert store.parts("b") == [LogPart("a", 0, 3), LogPart("b", 4, 3)]
        write(store, "b", store.acquire("b"), 4, 3)
        store.fork("b", 5, "c")
        assert store.parts("a") == [LogPart("a", 0, 6)]
        assert store.parts("b") == [LogPart("a", 0, 3), LogPart("b", 4, 6)]
        assert store.parts("c") == [LogPart("a", 0, 3), LogPart("b", 4, 5), LogPart("c", 6, 5)]
        store.fork("c", 2, "d")
        assert store.parts("d") == [LogPart("a", 0, 2), LogPart("d", 3, 2)]
        assert store.lineage("d") == ["c", "b", "a"]
        assert [store.shared(root_id) for root_id in "abcd"] == [-1, 3, 5, 2]

    def test_a_deep_fork_is_read(self) -> None:
        """A fork may descend from any number of others, and is read like any other log."""
        store = self.new()
        begin_log(store, "0", 3)
        for number in range(1, 60):
            own = [stored(number + 2, f"{number}")]
            store.fork(f"{number - 1}", number + 1, f"{number}", own)
        assert [event.seq for event in store.read("59")] == list(range(62))
        assert [event.run_id for event in store.read("59")] == ["0"] * 3 + [f"{number}" for number in range(1, 60)]
        assert [part.root_id for part in store.parts("59")] == [f"{number}" for number in range(60)]
        assert [store.event("59", seq).seq for seq in (0, 30, 61)] == [0, 30, 61]
        store.fork("59", 1, "short")
        assert store.parts("short") == [LogPart("0", 0, 1), LogPart("short", 2, 1)]
