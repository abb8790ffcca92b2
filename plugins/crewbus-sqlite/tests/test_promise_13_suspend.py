"""Promise 13, suspending, between processes: one is terminated, and another resumes its run at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlite_helpers import PATIENCE

from crewbus import Bus, Chunk, RunFinished, RunSuspendedError
from crewbus.stores import Claim
from crewbus_sqlite import SQLiteStore

SERVICE = Path(__file__).parent / "service.py"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is POSIX's")


@contextmanager
def service(path: Path, *says: str) -> Iterator[subprocess.Popen[str]]:
    """The process, which is killed in the end."""
    command = [sys.executable, str(SERVICE), str(path), *says]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def said(child: subprocess.Popen[str], *expected: str) -> None:
    assert child.stdout is not None
    assert [child.stdout.readline().strip() for _ in expected] == [*expected]


def test_promise_13_sigterm_releases_a_run_for_another_process(tmp_path):
    path = tmp_path / "record.db"
    with service(path, "r", "starts", "waits") as child:
        said(child, "first", "waits")
        with Bus(entry_points=False) as bus:
            bus.recording.use_store(SQLiteStore(path))
            with bus.subscribe("r", after="start") as follower:
                assert next(iter(follower)).event == Chunk("a")
                child.send_signal(signal.SIGTERM)
                said(child, "suspended the bus is closed")
                info = bus.records.info("r")
                assert (info.state, info.reason, info.holder) == ("suspended", "the bus is closed", None)
                assert [one.id for one in bus.recorded_runs(state="suspended")] == ["r"]
                with service(path, "r", "resumes", "ends") as other:
                    said(other, "waits", "last", "finished None")
                    assert [frame.event for frame in follower] == [Chunk("b"), RunFinished()]
                    assert other.wait(PATIENCE) == 0
            assert bus.records.info("r").state == "finished"
        assert child.wait(PATIENCE) == 0


def test_promise_13_a_run_that_waits_until_a_time_is_not_claimed_before(tmp_path):
    store = SQLiteStore(tmp_path / "record.db")
    with Bus(entry_points=False) as bus:
        bus.enable_recording(store)
        for run_id, until in (("later", 1e12), ("now", None)):
            with suppress(RunSuspendedError), bus.run(id=run_id) as run:
                run.suspend("sleeps", until)
                run.check()
        assert bus.records.info("later").until == store.info("later").due == 1e12
        assert [claimed.root_id for claimed in store.claim(Claim(limit=2))] == ["now"]
