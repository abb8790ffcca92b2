"""The contract of a store: any bytes, strings and numbers come back unchanged."""

from __future__ import annotations

import sys
from typing import Final

import pytest

from crewbus.exceptions import CrewbusError
from crewbus.stores import StoredEvent
from crewbus.testing.store.case import PATIENCE, StoreCase
from crewbus.testing.store.model import stored

BYTES: Final = {
    "empty": b"",
    "no UTF-8": b"\xff\x00\xfe",
    "zeros": bytes(100),
    "all": bytes(range(256)),
    "a pickle": b"cos\nsystem\n(S'exit 1'\ntR.",
    "5 MB": b"\x00\xff\n'\"" * 1024 * 1024,
}
STRINGS: Final = {
    "empty": "",
    "NUL": "a\0b",
    "emoji": "🚌 é \U0010ffff",
    "quotes": "'; DROP TABLE events; --\"`",
    "lines": "a\r\n\tb\x1b[0m",
    "paths": "../../etc/passwd%2f\\",
    "a number": "007",
    "long": "x" * 10_000,
}
MANY: Final = 100_000


class DataContract(StoreCase):
    """What a store does with the data of an event."""

    def _round_trip(self, *events: StoredEvent) -> None:
        store = self.new()
        epoch = store.begin("a")
        for event in events:
            store.append("a", epoch, event)
        store.flush(PATIENCE)
        read = list(store.read("a"))
        assert [event == found for event, found in zip(events, read, strict=True)] == [True] * len(events)
        assert [list(map(type, found)) for found in read] == [list(map(type, event)) for event in events]
        self.close_all()

    @pytest.mark.parametrize("kind", BYTES)
    def test_bytes_come_back(self, kind: str) -> None:
        """``data`` is any bytes, and the store does not interpret them."""
        self._round_trip(stored(0, data=BYTES[kind]), stored(1))

    @pytest.mark.parametrize("kind", STRINGS)
    def test_strings_come_back(self, kind: str) -> None:
        """Names, sources and the ids of parents are any strings."""
        text = STRINGS[kind]
        self._round_trip(
            stored(0)._replace(source=text, parent=text),
            stored(1, name=text),
            stored(2, run_id=f"nested {text}"),
            stored(3)._replace(source=None, parent=None),
        )

    @pytest.mark.parametrize("kind", STRINGS)
    def test_ids_are_any_strings(self, kind: str) -> None:
        """The id of a run is any string."""
        store, run_id = self.new(), STRINGS[kind]
        epoch = store.begin(run_id)
        store.append(run_id, epoch, stored(0, run_id))
        store.finish(run_id, epoch)
        store.fork(run_id, 0, f"fork {run_id}")
        assert store.roots() == [run_id, f"fork {run_id}"]
        assert store.root_of(run_id) == store.info(run_id).root_id == store.info(f"fork {run_id}").parent == run_id
        assert list(store.read(f"fork {run_id}")) == [stored(0, run_id)]

    @pytest.mark.parametrize("field", ["run_id", "parent", "source", "name"])
    def test_invalid_text_is_refused_or_comes_back(self, field: str) -> None:
        """A lone surrogate is not Unicode text: `append` refuses it and changes nothing, or the store keeps it."""
        store, odd = self.new(), StoredEvent(**{**stored(0)._asdict(), field: "\ud800"})
        epoch, kept = store.begin("a"), [odd, stored(1)]
        try:
            store.append("a", epoch, odd)
        except CrewbusError:
            kept = [stored(0)]
        store.append("a", epoch, kept[-1])
        store.flush(PATIENCE)
        assert list(store.read("a")) == kept

    def test_an_invalid_id_is_refused_or_kept(self) -> None:
        """`begin` refuses an id that the store can't keep, and creates no log; or the store keeps it."""
        store, kept = self.new(), ["\ud800"]
        try:
            store.begin("\ud800")
        except CrewbusError:
            kept = []
        store.flush(PATIENCE)
        assert store.roots() == kept

    def test_numbers_come_back(self) -> None:
        """Times, attempts and versions come back exactly."""
        times = [0.0, -1.5, 5e-324, sys.float_info.max, 1_700_000_000.123_456_7, float("inf"), float("-inf")]
        events = [stored(seq)._replace(at=at) for seq, at in enumerate(times)]
        wholes = [0, 2**31, 2**53 + 1, 2**63 - 1]
        events += [stored(seq)._replace(version=n, attempt=n) for seq, n in enumerate(wholes, len(events))]
        self._round_trip(*events)

    def test_many_events_in_one_log(self) -> None:
        """A log may be long: all of it can be read, and any single event."""
        store = self.new()
        epoch = store.begin("a")
        for seq in range(MANY):
            landmark = seq % 10_000 == 9_999
            store.append("a", epoch, stored(seq, name="crewbus.CheckpointSaved" if landmark else "test.Event"))
        store.finish("a", epoch)
        store.flush(PATIENCE)
        assert [event.seq for event in store.read("a")] == list(range(MANY))
        assert [event.seq for event in store.landmarks("a")] == list(range(9_999, MANY, 10_000))
        assert [event.seq for event in store.read("a", MANY - 3)] == [MANY - 2, MANY - 1]
        assert store.event("a", MANY // 2).seq == MANY // 2
        assert store.info("a").last == MANY - 1
        store.fork("a", MANY - 2, "b")
        assert store.event("b", MANY - 2).seq == store.info("b").last == MANY - 2
