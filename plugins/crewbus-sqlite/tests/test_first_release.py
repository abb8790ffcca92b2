"""The promise to old files: what the first release recorded is listed, shown, exported and replayed by this one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlite_helpers import PATIENCE

import crewbus
from crewbus_sqlite import SQLiteStore

GOLDEN = Path(__file__).with_name("golden")
EXPECTED = json.loads((GOLDEN / "first-release.json").read_text(encoding="utf-8"))
RUNS = list(EXPECTED)


@pytest.fixture
def path(tmp_path):
    return Path(shutil.copy(GOLDEN / "first-release.db", tmp_path / "record.db"))


@pytest.fixture
def bus(path):
    with crewbus.Bus(entry_points=False) as bus:
        bus.recording.use_store(SQLiteStore(path))
        yield bus


def command(path, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "crewbus", *arguments, "--store", f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=path.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def events(envelopes):
    return [[one.run_id, one.seq, one.parent, type(one.event).__name__] for one in envelopes]


def test_all_runs_are_listed_in_their_states(bus):
    assert {info.id: info.state for info in bus.records.list()} == {run: EXPECTED[run]["state"] for run in RUNS}
    assert [info.id for info in bus.records.list()] == RUNS
    assert {info.id: info.parent for info in bus.records.list()} == {run: EXPECTED[run]["parent"] for run in RUNS}
    assert [info.id for info in bus.records.list(tags={"tenant": "7"}, state="failed")] == ["failed"]
    assert [info.id for info in bus.records.list(tags={"turn": "saved"})] == [*RUNS[:3], "saved"]
    assert bus.records.info("failed").error == "builtins.ValueError: out of ink"
    assert bus.records.info("cancelled").reason == "enough"


@pytest.mark.parametrize("run", RUNS)
def test_each_event_is_read_as_it_was(run, bus):
    """Under the same ids: those of a fork of a fork depend on each fork between."""
    assert events(bus.record_of(run)) == EXPECTED[run]["events"]


@pytest.mark.parametrize("run", RUNS)
def test_each_run_is_exported_and_replayed(run, bus, tmp_path):
    bus.records.export(run, tmp_path / "run.jsonl")
    head, *lines = map(json.loads, (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines())
    assert (head["run"], head["state"]) == (run, EXPECTED[run]["state"])
    assert [[one["run_id"], one["seq"], one["parent"]] for one in lines] == [one[:3] for one in EXPECTED[run]["events"]]
    told = []
    bus.on(object, lambda envelope: told.append(type(envelope.event).__name__))
    assert bus.replay(run) == len(EXPECTED[run]["events"])
    assert told == [name for *_, name in EXPECTED[run]["events"]]


def test_commands_show_them(path):
    listed = json.loads(command(path, "runs", "--json"))
    assert [info["id"] for info in listed] == RUNS
    assert [info["id"] for info in json.loads(command(path, "runs", "--state", "failed", "--json"))] == ["failed"]
    for run in RUNS:
        shown = json.loads(command(path, "show", run, "--json"))
        assert (shown["id"], shown["state"]) == (run, EXPECTED[run]["state"])
        assert "model" in command(path, "show", run)


def test_commands_read_them(path):
    for run in ("finished", "interrupted", RUNS[1]):
        assert len(command(path, "tail", run, "--json").splitlines()) >= len(EXPECTED[run]["events"])
        command(path, "export", run, "--output", f"{run}.jsonl")
        assert (path.parent / f"{run}.jsonl").exists()
    assert "finished" in command(path, "prune", "--keep", "0", "--dry-run")


def test_one_can_be_forked_and_dropped(bus):
    fork = bus.fork(RUNS[1], at="draft")
    shared = [[one[1], one[3]] for one in EXPECTED["saved"]["events"]]
    assert [[one[1], one[3]] for one in events(bus.record_of(fork))] == [*shared, [len(shared), "RunForked"]]
    assert bus.records.info(fork).parent == RUNS[1]
    assert set(bus.records.prune(keep=0)) == {fork, *RUNS}
