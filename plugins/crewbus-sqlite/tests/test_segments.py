"""A streamed run in few rows: what is read of it, from any number, is what was emitted."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from sqlite_helpers import PATIENCE

import crewbus
from crewbus.exceptions import CrewbusError
from crewbus_sqlite import SQLiteStore

WORDS = [f"word{number} " for number in range(40)]
FIELDS = ("run_id", "seq", "parent", "at", "source", "attempt", "event")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.db"


@pytest.fixture
def emitted(path):
    """What a run emitted: two calls, of which the first failed in the middle and was taken back; then more text."""
    found = []
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(SQLiteStore(path))
        bus.on(object, found.append)
        with bus.run(id="r1") as run:
            with contextlib.suppress(LookupError), run.attempt(), bus.call("model"):
                for word in WORDS[:20]:
                    bus.chunk(word, source="Agent")
                raise LookupError("try again")
            with run.attempt(), bus.call("model"):
                for word in WORDS:
                    bus.chunk(word, source="Agent")
            for word in WORDS:
                bus.chunk(word, kind="reasoning")
                bus.flush(PATIENCE)  # a commit each
    return found


@pytest.fixture
def bus(path):
    with crewbus.Bus(entry_points=False) as bus:
        bus.recording.use_store(SQLiteStore(path))
        yield bus


def fields(envelope):
    return tuple(getattr(envelope, name) for name in FIELDS)


def test_a_streamed_run_has_few_rows(emitted, path):
    connection = sqlite3.connect(path)
    ((rows, events),) = connection.execute("SELECT count(*), sum(count) FROM events")
    connection.close()
    assert events == len(emitted) > 100
    assert rows < 20


def test_envelopes_come_back_as_they_were_emitted(emitted, bus):
    assert [fields(one) for one in bus.record_of("r1")] == [fields(one) for one in emitted]


def test_a_consumer_continues_after_any_frame(emitted, bus):
    with bus.subscribe("r1", after="start") as stream:
        cursors, frames = [stream.cursor], []
        for frame in stream:
            frames.append(fields(frame))
            cursors.append(stream.cursor)
    assert len(frames) > 100
    for number in range(0, len(frames), 7):
        with bus.subscribe("r1", after=cursors[number]) as stream:
            assert [fields(frame) for frame in stream] == frames[number:]


def test_the_text_is_that_which_was_not_taken_back(emitted, bus):
    with bus.subscribe("r1", after="start") as stream:
        for _ in stream:
            pass
        assert stream.text() == "".join(WORDS)


def test_a_run_is_forked_at_any_number(emitted, bus):
    recorded = list(bus.store.read("r1"))
    for at in range(1, len(emitted) - 1, 9):
        bus.store.fork("r1", at, f"fork {at}")
        assert list(bus.store.read(f"fork {at}")) == recorded[: at + 1]
        assert [one.at for one in bus.record_of(f"fork {at}")] == [one.at for one in emitted[: at + 1]]


def test_a_fork_goes_with_its_part_and_leaves_the_rest(emitted, bus):
    bus.store.fork("r1", 10, "fork")
    with pytest.raises(CrewbusError):
        bus.store.drop("r1")
    bus.store.drop("fork")
    assert [fields(one) for one in bus.record_of("r1")] == [fields(one) for one in emitted]
    bus.store.drop("r1")
    assert bus.store.roots() == []
