"""The entries of a journal: they come back as they were, and none is believed blindly. See test_store_contract too."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crewbus
from crewbus.stores import StoredEvent
from crewbus.stores.journal.entry import WRITES, Entry
from crewbus.stores.journal.writer import is_dead, new_name

pytest.importorskip("fcntl", reason="the store needs flock")

# Entries

texts = st.text(st.characters(), max_size=5)
events = st.builds(
    StoredEvent,
    run_id=texts,
    seq=st.integers(0),
    parent=st.none() | texts,
    at=st.floats(allow_nan=False, allow_infinity=False),
    source=st.none() | texts,
    attempt=st.integers(1),
    name=texts,
    version=st.integers(1),
    data=st.binary(max_size=20),
)
VALUES = {
    "root_id": texts,
    "fork_id": texts,
    "epoch": st.integers(0),
    "at": st.integers(0),
    "event": events,
    "events": st.lists(events, max_size=3),
}
entries = st.sampled_from(sorted(WRITES)).flatmap(
    lambda write: st.builds(
        Entry, texts, st.just(write), st.fixed_dictionaries({name: VALUES[name] for name in WRITES[write]})
    )
)


@given(entries)
def test_an_entry_comes_back_as_it_was(entry):
    line = entry.dump()
    assert b"\n" not in line
    assert Entry.load(line) == entry


@given(entries, st.data())
def test_what_is_no_entry_is_refused(entry, data):
    line = entry.dump()
    at = data.draw(st.integers(0, len(line) - 1))
    changed = line[:at] + data.draw(st.binary(max_size=3)) + line[at + 1 :]
    try:
        found = Entry.load(changed)
    except ValueError:
        return
    assert found.write in WRITES
    assert Entry.load(found.dump()) == found


@pytest.mark.parametrize("write", ["close", "__init__", "after_fork", "_log", "no such"])
def test_an_entry_calls_nothing_but_writes(write):
    with pytest.raises(ValueError, match=write):
        Entry.load(json.dumps({"write": write, "root_id": "a", "by": "me"}).encode())


# Writers


def test_a_writer_is_dead_when_its_process_is():
    code = "from crewbus.stores.journal.writer import new_name; print(new_name())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not is_dead(new_name())
    assert is_dead(done.stdout.strip())


@pytest.mark.parametrize("name", ["", "me", "process 1 on elsewhere (0123456789abcdef-7-0)", "process x on y (a-b-c)"])
def test_of_a_writer_from_elsewhere_nothing_is_known(name):
    assert not is_dead(name)


# Faults


def test_what_the_file_refuses_reaches_the_caller_and_leaves_nothing_half_done(tmp_path):
    from crewbus_jsonl import JsonlStore

    store = JsonlStore(tmp_path / "records.jsonl")
    store.begin("a")
    add, store.add = store.add, lambda entry: (_ for _ in ()).throw(OSError("no room"))
    with pytest.raises(crewbus.RecordingError, match=r"records\.jsonl.*no room"):
        store.begin("b")
    store.add = add
    assert store.roots() == ["a"]
    store.close()
    assert JsonlStore(tmp_path / "records.jsonl").roots() == ["a"]
