"""The command in a process of its own: signals, pipes, a terminal, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from cli_helpers import process
from helpers import TIMEOUT

AGENTS = """\
    import asyncio, sys, threading
    import crewbus

    async def forever(topic=0):
        if topic > 2:
            crewbus.chunk("begun\\n")
            try:
                sys.stderr.write("begun\\n")  # in one piece
                await asyncio.Event().wait()
            finally:
                print("cleaned up", file=sys.stderr)

    def deaf(topic=0):
        sys.stderr.write("begun\\n")  # in one piece
        threading.Event().wait(60)

    async def spin():
        sys.stderr.write("begun\\n")  # in one piece
        while True:
            pass

    async def chatter(topic=0):
        while True:
            crewbus.chunk("a line\\n")
            await asyncio.sleep(0)

    def leave():
        raise SystemExit(7)

    def say(text="hello"):
        crewbus.chunk(text)
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as POSIX has them")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text(dedent(AGENTS))
    (tmp_path / "five.jsonl").write_text("1\n2\n3\n4\n5\n")
    return tmp_path


def begun(child: subprocess.Popen[str], times: int = 1) -> None:
    """Wait until so many runs of the child have begun."""
    assert child.stderr is not None
    for _ in range(times):
        while (line := child.stderr.readline()) != "begun\n":
            assert line, "the child ended before it began"


@posix
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_cancels_a_run_and_shows_its_status(folder: Path, number: int, code: int, word: str) -> None:
    with process(folder, "run", "agents:forever", "--arg", "topic=3") as child:
        begun(child)
        child.send_signal(number)
        out, err = child.communicate()
    assert child.returncode == code
    assert out == "begun\n"
    assert "cleaned up" in err
    assert f"{word}: cancelling 1 run" in err
    assert "forever cancelled after " in err
    assert "Traceback" not in err


@posix
@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_cancels_several_runs_and_shows_their_summary(folder: Path, as_json: bool) -> None:
    options = ["--json"] if as_json else []
    argv = ["run", "agents:forever", "--input", "five.jsonl", "--concurrency", "2", *options]
    with process(folder, *argv) as child:
        begun(child, 2)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    assert child.returncode == 130
    assert err.count("cleaned up") == 2
    assert "Traceback" not in err
    if as_json:
        summary = json.loads(out)
        assert {key: summary[key] for key in ("runs", "ok", "failed", "cancelled", "not_started")} == {
            "runs": 4, "ok": 2, "failed": 0, "cancelled": 2, "not_started": 1,
        }  # fmt: skip
        assert "failures" not in summary, "what the user cancelled is no failure"
    else:
        assert out.splitlines()[0].split() == [
            "runs",
            "ok",
            "failed",
            "cancelled",
            "not",
            "started",
            "chunks",
            "seconds",
        ]
        assert out.splitlines()[1].split()[:5] == ["4", "2", "0", "2", "1"]


@posix
def test_work_that_outlasts_the_grace_period_is_abandoned(folder: Path) -> None:
    with process(folder, "run", "agents:deaf", "--input", "five.jsonl", "--json") as child:
        begun(child, 5)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    assert child.returncode == 130
    assert json.loads(out)["cancelled"] == 5
    assert "5 runs still running after 0.3 s; abandoned" in err
    assert "Warning" not in err


@posix
def test_a_second_ctrl_c_stops_at_once_even_if_the_loop_is_blocked(folder: Path) -> None:
    with process(folder, "run", "agents:spin") as child:
        begun(child)
        child.send_signal(signal.SIGINT)
        # Sent until it takes effect: two of which the first was not yet handled count as one.
        while child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        _, err = child.communicate()
    assert child.returncode == 130
    assert "crewbus: stopped at once" in err
    assert "Traceback" not in err


@posix
def test_a_signal_that_is_ignored_stays_ignored(folder: Path) -> None:
    (folder / "ignoring.py").write_text(
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "def agent():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    with process(folder, "run", "ignoring:agent") as child:
        _, err = child.communicate()
    assert child.returncode == 0
    assert "agent finished" in err


@posix
@pytest.mark.parametrize("target", ["agents:chatter", "agents.py:chatter"])
def test_a_closed_output_pipe_cancels_the_run_without_a_message(folder: Path, target: str) -> None:
    with process(folder, "run", target) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "a line\n"
        child.stdout.close()
        assert child.wait(TIMEOUT) == 1
        assert child.stderr is not None
        assert child.stderr.read() == ""


@posix
@pytest.mark.parametrize("argv", [["hooks"], ["plugins", "--json"], ["run", "agents:say", "--input", "five.jsonl"]])
def test_a_closed_output_pipe_is_exit_code_1_without_a_message(folder: Path, argv: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with process(folder, *argv, stdout=write) as child:
        os.close(write)
        _, err = child.communicate()
    assert (child.returncode, err) == (1, "")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["run", "agents:say"], 0),
        (["run", "agents:leave"], 1),
        (["run", "agents:nobody"], 2),
        (["run", "agents:say", "--input", "missing.jsonl"], 2),
        (["run"], 2),
        ([], 2),
        (["--version"], 0),
    ],
)
def test_python_m_crewbus_exits_with_the_documented_code(folder: Path, argv: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crewbus", *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "__main__" not in done.stderr


@posix
def test_on_a_terminal_there_is_colour_and_the_status_has_a_line_of_its_own(folder: Path) -> None:
    import pty

    env = {**os.environ, "TERM": "xterm", "NO_COLOR": ""}
    main, side = pty.openpty()
    with process(folder, "run", "agents:say", stdout=side, stderr=side, env=env) as child:
        os.close(side)
        written = drain(main)
        assert child.wait(TIMEOUT) == 0
    os.close(main)
    assert written.startswith("hello\r\nsay \x1b[32mfinished\x1b[0m in ")


def test_async_handlers_on_the_default_bus_are_awaited(folder: Path) -> None:
    (folder / "hearing.py").write_text(
        "import asyncio, crewbus\n"
        "@crewbus.default_bus().on(crewbus.RunFinished)\n"
        "async def note(envelope):\n"
        "    await asyncio.sleep(0.01)\n"
        "    print('heard\\n', end='')\n"  # at once: the command may write its table meanwhile
        "def agent(number): ...\n"
    )
    with process(folder, "run", "hearing:agent", "--input", "five.jsonl") as child:
        out, err = child.communicate()
    assert (child.returncode, err) == (0, "")
    assert out.count("heard\n") == 5


def drain(terminal: int) -> str:
    """What is written to a pseudoterminal until its other side is closed."""
    found = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux reports a closed other side like this
            piece = b""
        if not piece:
            return found.decode()
        found += piece
