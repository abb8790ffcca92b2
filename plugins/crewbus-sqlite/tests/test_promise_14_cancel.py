"""Promise 14, cancelling, between processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlite_helpers import PATIENCE
from test_promise_13_suspend import said, service

from crewbus import Bus, RunCancelled
from crewbus_sqlite import SQLiteStore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is POSIX's")


def cancel(path: Path, *argv: str) -> dict[str, str]:
    """What ``crewbus cancel`` answers."""
    command = [sys.executable, "-m", "crewbus", "-p", "crewbus_sqlite", "cancel", *argv, "--json"]
    env = {**os.environ, "CREWBUS_RECORD": "off"}
    done = subprocess.run(
        [*command, "--store", f"sqlite:///{path}"],
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def test_promise_14_a_run_of_another_process_is_cancelled(tmp_path):
    path = tmp_path / "record.db"
    with service(path, "r", "starts", "waits") as child, Bus(entry_points=False) as bus:
        said(child, "first", "waits")
        bus.recording.use_store(SQLiteStore(path))
        with bus.subscribe("r", after="start") as follower:
            assert bus.cancel("r", "enough") == "running"
            said(child, "cancelled enough")
            assert [frame.event for frame in follower][-1] == RunCancelled("enough")
        assert bus.cancel("r") == "cancelled"
        assert child.wait(PATIENCE) == 0


def test_promise_14_by_the_command(tmp_path):
    path = tmp_path / "record.db"
    with service(path, "r", "starts", "waits") as child:
        said(child, "first", "waits")
        assert cancel(path, "latest", "--reason", "enough") == {"id": "r", "state": "running"}
        said(child, "cancelled enough")
        assert child.wait(PATIENCE) == 0
    assert cancel(path, "r") == {"id": "r", "state": "cancelled"}


@pytest.mark.parametrize(("number", "state"), [(signal.SIGKILL, "interrupted"), (signal.SIGTERM, "suspended")])
def test_promise_14_a_run_whose_process_is_gone_ends_as_cancelled(tmp_path, number, state):
    path = tmp_path / "record.db"
    with service(path, "r", "starts", "waits") as child:
        said(child, "first", "waits")
        child.send_signal(number)
        child.wait(PATIENCE)
    with Bus(entry_points=False) as bus:
        bus.recording.use_store(SQLiteStore(path))
        assert bus.cancel("r", "enough") == state
        assert [info.id for info in bus.recorded_runs(state="cancelled")] == ["r"]


def test_promise_14_a_request_to_a_process_that_dies_first_waits_for_the_next(tmp_path):
    path = tmp_path / "record.db"
    with service(path, "r", "starts", "waits") as child, Bus(entry_points=False) as bus:
        said(child, "first", "waits")
        child.send_signal(signal.SIGSTOP)
        bus.recording.use_store(SQLiteStore(path))
        assert bus.cancel("r", "enough") == "running"
        child.kill()
        child.wait(PATIENCE)
        with service(path, "r", "resumes", "ends") as other:
            said(other, "cancelled enough")
            assert other.wait(PATIENCE) == 0
        assert bus.records.info("r").state == "cancelled"
