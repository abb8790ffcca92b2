"""Promise 15, results for any process: what was acknowledged is there after ``kill -9``, for whoever asks."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sqlite_helpers import PATIENCE

import crewbus
from crewbus_sqlite import SQLiteStore

HEADER = """
import signal, sys, os
import crewbus
from crewbus_sqlite import SQLiteStore

bus = crewbus.Bus(entry_points=False)
bus.enable_recording(SQLiteStore(sys.argv[1]))
"""


def process(path: Path, source: str) -> subprocess.Popen[str]:
    """A process that records to ``path`` and runs ``source``."""
    setup = f"import sys; sys.path[:0] = {sys.path!r}\n"
    return subprocess.Popen(
        [sys.executable, "-c", setup + HEADER + textwrap.dedent(source), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def killed(path: Path, source: str) -> str:
    """What a process says before it kills itself."""
    ended = process(path, source)
    said, _ = ended.communicate(timeout=PATIENCE)
    assert ended.returncode == -signal.SIGKILL
    return said


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.db"


def reader(path):
    bus = crewbus.Bus(entry_points=False)
    bus.enable_recording(SQLiteStore(path))
    return bus


def test_promise_15_a_result_that_was_returned_survives_a_kill(path):
    source = """
        with bus.run(id="run") as run:
            run.set_result({"articles": 3})
        print(bus.result("run"), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert killed(path, source) == "{'articles': 3}\n"
    with reader(path) as bus:
        assert bus.result("run", PATIENCE) == {"articles": 3}


def test_promise_15_a_run_that_was_killed_has_its_result_once_it_was_resumed(path):
    source = """
        with bus.run(id="run") as run:
            run.step("one", lambda: 1)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert killed(path, source) == ""
    with reader(path) as bus:
        with pytest.raises(crewbus.ResultTimeoutError):
            bus.result("run", 0)
        resumed = process(
            path,
            """
            sys.stdin.readline()
            with bus.resume("run") as run:
                run.set_result(run.step("one", lambda: 1) + 1)
            bus.close()
            """,
        )
        resumed.stdin.write("go\n")
        resumed.stdin.flush()
        assert bus.result("run", PATIENCE) == 2
    resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0


def test_promise_15_the_failure_of_another_process_is_raised(path):
    source = """
        try:
            with bus.run(id="run"):
                raise KeyError("trains")
        except KeyError:
            bus.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed(path, source)
    with reader(path) as bus, pytest.raises(KeyError, match="trains"):
        bus.result("run", PATIENCE)


def test_promise_15_a_run_that_was_killed_before_it_began_is_followed(path):
    source = """
        bus.recording.plant(bus.run("order", id="order 7"))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed(path, source)
    with reader(path) as bus:
        options = crewbus.StreamOptions(name="order", id="order 7", attach=True)
        with bus.stream(pytest.fail, options=options) as stream, pytest.raises(crewbus.ResultTimeoutError):
            stream.result(0)
        assert stream.attached
        with bus.resume("order 7") as run:
            run.set_result("paid")
        assert bus.result("order 7", PATIENCE) == "paid"
