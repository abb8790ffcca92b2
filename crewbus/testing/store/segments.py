"""The contract of a store: events that are alike, which it may keep as a `crewbus.stores.Segment`, are cut anywhere."""

from __future__ import annotations

from typing import Any, Final

import pytest

from crewbus.exceptions import CrewbusError
from crewbus.stores import Store, StoredEvent
from crewbus.testing.store.case import PATIENCE, StoreCase

CALL: Final = 20
"""How many chunks a call has here."""
START: Final = 1_700_000_000.25


def chunk(seq: int, text: str = "word", root_id: str = "a") -> StoredEvent:
    """A chunk of a call, which is 20 milliseconds after the one before, as clocks have it."""
    data = b'{"text":"%s%d"}' % (text.encode(), seq)
    return StoredEvent(root_id, seq, f"{root_id}:0", START + seq * 0.02, None, 1, "crewbus.Chunk", 1, data)


def _write(store: Store, root_id: str, epoch: int, events: list[StoredEvent], *, each: bool = False) -> None:
    for event in events:
        store.append(root_id, epoch, event)
        if each:
            store.flush(PATIENCE)
    store.flush(PATIENCE)


def _has(store: Store, root_id: str, events: list[StoredEvent]) -> None:
    """Assert that a log has these events, whatever the number at which one begins to read."""
    assert store.info(root_id).last == len(events) - 1
    for after in range(-1, len(events)):
        assert list(store.read(root_id, after)) == events[after + 1 :]
    assert [store.event(root_id, seq) for seq in range(len(events))] == events


OTHERS: Final[dict[str, dict[str, Any]]] = {
    "run": {"run_id": "a/nested"},
    "parent": {"parent": "a:0/1"},
    "no parent": {"parent": None},
    "source": {"source": "Agent"},
    "attempt": {"attempt": 2},
    "type": {"name": "tests.Chunk"},
    "landmark": {"name": "crewbus.CallFinished"},
    "version": {"version": 2},
    "the same time": {"at": START},
    "an earlier time": {"at": START - 1.5},
    "a long pause": {"at": START + 86_400.0},
    "an exact time": {"at": START + 2.0**-22},
    "no time": {"at": float("inf")},
    "a small time": {"at": 5e-324},
    "no data": {"data": b""},
    "no fields": {"data": b"{}"},
    "no text": {"data": b'{"text":""}'},
    "an end in the beginning": {"data": b'{"text":"}'},
    "lines": {"data": b'{"text":"a\nb"}'},
    "lines alone": {"data": b"\n\n"},
    "another field": {"data": b'{"word":"word"}'},
    "a number": {"data": b'{"text":12}'},
    "no UTF-8": {"data": b'{"text":"\xff\x00\xfe"}'},
    "much data": {"data": b'{"text":"%s"}' % (b"x" * 100_000)},
}
"""How an event may differ from those of a call: the fields that are other ones."""


class SegmentContract(StoreCase):
    """What a store does with events that are alike."""

    def test_events_that_are_alike_come_back_from_any_number(self) -> None:
        """Every event of a call comes back by its number, and `read` begins after any."""
        store, other = self.pair()
        for root_id, each in (("a", False), ("b", True)):
            events = [chunk(seq, root_id=root_id) for seq in range(3 * CALL)]
            _write(store, root_id, store.begin(root_id), events, each=each)
            _has(store, root_id, events)
            _has(other, root_id, events)

    def test_very_many_that_are_alike_come_back(self) -> None:
        """However many follow each other, in one flush or several."""
        store, events = self.new(), [chunk(seq) for seq in range(1000)]
        epoch = store.begin("a")
        for start in range(0, 1000, 250):
            _write(store, "a", epoch, events[start : start + 250])
            assert list(store.read("a", start + 100)) == events[start + 101 : start + 250]
        assert list(store.read("a")) == events

    @pytest.mark.parametrize("kind", OTHERS)
    def test_one_that_differs_comes_back(self, kind: str) -> None:
        """An event that differs in one field comes back as it was, first, in the middle and last of others."""
        store, other = self.new(), chunk(1)._replace(**OTHERS[kind])
        events = [other, *[chunk(1)] * 3, other, *[chunk(1)] * 3, other, other, other]
        events = [event._replace(seq=seq) for seq, event in enumerate(events)]
        for root_id, each in (("a", False), ("b", True)):
            own = [event._replace(run_id=event.run_id.replace("a", root_id)) for event in events]
            _write(store, root_id, store.begin(root_id), own, each=each)
            _has(store, root_id, own)

    def test_a_fork_may_share_a_part_of_a_call(self) -> None:
        """A log can be forked at each event, and each fork continues with events of its own."""
        store, events = self.new(), [chunk(seq) for seq in range(CALL)]
        epoch = store.begin("a")
        _write(store, "a", epoch, events[:CALL])
        expected = {"a": events}
        for at in range(0, CALL, 3):
            fork = f"fork at {at}"
            store.fork("a", at, fork)
            own = [chunk(seq, "own", fork) for seq in range(at + 1, at + 5)]
            _write(store, fork, store.acquire(fork), own, each=True)
            expected[fork] = events[: at + 1] + own
            store.fork(fork, at + 2, f"{fork}, at {at + 2}")
            expected[f"{fork}, at {at + 2}"] = expected[fork][: at + 3]
        events += [chunk(seq) for seq in range(CALL, CALL + 5)]
        _write(store, "a", epoch, events[CALL:])
        for root_id, found in expected.items():
            _has(store, root_id, found)

    def test_a_fork_that_is_dropped_leaves_the_rest_of_a_call(self) -> None:
        """What a fork shared stays with its parent; once no fork is left, the parent can be dropped with all of it."""
        store, events = self.new(), [chunk(seq) for seq in range(CALL)]
        epoch = store.begin("a")
        _write(store, "a", epoch, events)
        store.finish("a", epoch)
        store.fork("a", 7, "b")
        with pytest.raises(CrewbusError):
            store.drop("a")
        store.drop("b")
        _has(store, "a", events)
        store.drop("a")
        assert store.roots() == []
        again = [chunk(seq, "again") for seq in range(3)]
        _write(store, "a", store.begin("a"), again)
        _has(store, "a", again)

    def test_another_holder_continues_a_call(self) -> None:
        """Events of a new holder follow those of the former one; what that has still to write is fenced."""
        store, other = self.pair()
        events = [chunk(seq) for seq in range(CALL)]
        epoch = store.begin("a")
        _write(store, "a", epoch, events[:5])
        store.revoke("a")
        taken = other.acquire("a")
        _write(other, "a", taken, [chunk(3, "other"), *events[5:8]])
        with pytest.raises(CrewbusError):
            _write(store, "a", epoch, [chunk(8, "fenced")])
        _write(other, "a", taken, events[8:], each=True)
        _has(other, "a", events)

    def test_a_call_continues_when_the_store_is_opened_again(self) -> None:
        """What follows a call whose holder has ended is as if nothing had happened."""
        events = [chunk(seq) for seq in range(CALL)]
        store = self.new()
        epoch = store.begin("a")
        _write(store, "a", epoch, events[:7])
        store.release("a", epoch)
        if self.survives:
            store.close()
            store = self.new()
        _write(store, "a", store.acquire("a"), events[7:], each=True)
        _has(store, "a", events)
        assert store.summary("a").at == events[-1].at
