"""A store on a failing journal: each fault is raised, and what is in memory is never ahead of the journal."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

import crewbus
from crewbus.stores import StoredEvent
from crewbus.stores.journal import JournalStore
from crewbus.stores.journal.entry import Entry


class ListStore(JournalStore):
    """Keeps its entries in a list, unless there is a fault."""

    def __init__(self, journal: list[bytes]) -> None:
        self.journal = journal
        self.reading: BaseException | None = None
        self.adding: BaseException | None = None
        super().__init__(Path("no such folder") / "holder-")

    def turn(self):
        return contextlib.nullcontext()

    def entries(self, after):
        if self.reading is not None:
            raise self.reading
        yield from enumerate(self.journal[after:], after + 1)

    def add(self, entry):
        if self.adding is not None:
            raise self.adding
        self.journal.append(entry)
        return len(self.journal)


FAULTS = [OSError("no room"), crewbus.RecordingError("no room"), LookupError("no room"), KeyboardInterrupt("no room")]


def event(seq: int) -> StoredEvent:
    return StoredEvent("a", seq, None, 0.5, None, 1, "tests.Said", 1, b"{}")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_write_that_can_not_be_added_has_no_effect(fault):
    store = ListStore([])
    epoch = store.begin("a")
    store.adding = fault
    received = fault if isinstance(fault, KeyboardInterrupt) else crewbus.RecordingError("")
    with pytest.raises(type(received), match="no room"):
        store.append("a", epoch, event(0))
    with pytest.raises(type(received), match="no room"):
        store.begin("b")
    store.adding = None
    for one in (store, ListStore(store.journal)):
        assert (one.info("a").last, one.roots()) == (-1, ["a"])
    store.append("a", epoch, event(0))
    assert store.begin("b") == 1
    store.append("a", epoch, event(1))
    assert list(ListStore(store.journal).read("a")) == [event(0), event(1)]


def test_an_error_while_reading_is_the_cause_of_a_recording_error():
    store = ListStore([])
    store.begin("a")
    store.reading = AttributeError("no such table")
    with pytest.raises(crewbus.RecordingError, match="AttributeError: no such table") as caught:
        store.roots()
    assert caught.value.__cause__ is store.reading
    store.reading = None
    assert store.roots() == ["a"]


def test_a_finaliser_can_not_write_during_a_write():
    """It would wait for that turn for ever, or come between an entry and its checksum."""

    class Finalised(ListStore):
        def turn(self):
            turns.append(self)
            assert len(turns) < 3
            return super().turn()

        def add(self, entry):
            with pytest.raises(crewbus.RecordingError, match="is in use"):
                self.begin("meanwhile")
            return super().add(entry)

    turns: list[JournalStore] = []
    store = Finalised([])
    store.begin("a")
    assert ListStore(store.journal).roots() == store.roots() == ["a"]


@pytest.mark.parametrize("by", [1, None, ["me"]])
def test_an_entry_without_a_writer_is_rejected(by):
    store = ListStore([])
    store.begin("a")
    entry = {**json.loads(store.journal[0]), "by": by}
    del entry["sum"]
    with pytest.raises(ValueError, match="by is"):
        Entry.load(json.dumps(entry).encode())
