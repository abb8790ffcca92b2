"""The entries of a journal: they come back as they were, and none is believed blindly. See test_store_contract too."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crewbus
from crewbus.stores import StoredEvent
from crewbus.stores.journal.entry import WRITES, Entry
from crewbus.stores.journal.writer import Writers
from crewbus.stores.liveness import LockFiles

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
    "until": st.none() | st.floats(allow_nan=False),
    "channel": texts,
    "data": st.binary(max_size=20),
    "key": st.none() | texts,
}
entries = st.sampled_from(sorted(WRITES)).flatmap(
    lambda write: st.builds(
        Entry, texts, st.just(write), st.fixed_dictionaries({name: VALUES[name] for name in WRITES[write]})
    )
)


@given(entries)
def test_an_entry_round_trips(entry):
    line = entry.dump()
    assert b"\n" not in line
    assert Entry.load(line) == entry


@given(entries, st.data())
def test_an_invalid_entry_is_rejected(entry, data):
    line = entry.dump()
    at = data.draw(st.integers(0, len(line) - 1))
    changed = line[:at] + data.draw(st.binary(max_size=3)) + line[at + 1 :]
    try:
        found = Entry.load(changed)
    except ValueError:
        return
    assert found.write in WRITES
    assert Entry.load(found.dump()) == found


def test_an_entry_of_an_earlier_release_is_read():
    line = json.dumps({"write": "release", "root_id": "a", "epoch": 1, "by": "me"}).encode()
    assert Entry.load(line) == Entry("me", "release", {"root_id": "a", "epoch": 1, "until": None})


@pytest.mark.parametrize("write", ["close", "__init__", "after_fork", "_log", "no such"])
def test_an_entry_calls_only_write_methods(write):
    with pytest.raises(ValueError, match=write):
        Entry.load(json.dumps({"write": write, "root_id": "a", "by": "me"}).encode())


# Writers


def test_a_writer_is_dead_when_its_process_is(tmp_path):
    code = """
        import os, sys
        from pathlib import Path
        from crewbus.stores.journal.writer import Writers
        writers = Writers(Path(sys.argv[1]), 15.0)
        writers.hold()
        print(writers.me, flush=True)
        os._exit(1)
    """
    prefix = tmp_path / "holder-"
    program = [sys.executable, "-c", textwrap.dedent(code), str(prefix)]
    other = subprocess.run(program, capture_output=True, text=True, check=False).stdout.strip()
    writers = Writers(prefix, 15.0)
    writers.hold()
    assert not Writers(prefix, 15.0).is_dead(writers.me)
    assert writers.is_dead(other)
    assert list(writers.dead([writers.me, other])) == [other]
    writers.forget(other)
    writers.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "me", f"process 1 on elsewhere (elsewhere {'0' * 32})", "process x on y (a b)"])
def test_a_writer_on_another_host_is_not_known_to_be_dead(tmp_path, name):
    LockFiles(tmp_path / "holder-").hold("0" * 32, 15.0).release(keep_file=True)
    writers = Writers(tmp_path / "holder-", 15.0)
    assert not writers.is_dead(name)
    writers.forget(name)
    assert len(list(tmp_path.iterdir())) == 1


# Faults


def test_an_error_of_the_file_reaches_the_caller_and_leaves_the_store_unchanged(tmp_path):
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
