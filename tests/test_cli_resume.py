"""The command on runs that were killed: `crewbus run` records them in a file, `crewbus resume` continues them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from cli_helpers import process
from helpers import BESIDE, TIMEOUT

from crewbus.cli.run_ids import short_id

PLUGIN = Path(__file__).parent.parent / "plugins" / "crewbus-sqlite"
pytestmark = [
    pytest.mark.skipif(not PLUGIN.is_dir(), reason="plugins/crewbus-sqlite is not here"),
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's"),
]

AGENTS = """\
    import asyncio, os, signal, sys, threading
    import crewbus

    def die_if(place):
        if os.environ.get("DIE") == place:
            crewbus.current_bus().flush()
            os.kill(os.getpid(), signal.SIGKILL)

    @crewbus.step
    def double(number):
        with open("made", "a") as made:
            made.write(f"{number} ")
        crewbus.chunk(f"[{number}")
        die_if(f"in {number}")
        crewbus.chunk("]")
        return 2 * number

    def agent(steps=3):
        crewbus.chunk("begin ")
        total = 0
        for number in range(steps):
            total += double(number)
            die_if(f"after {number}")
        crewbus.chunk(f" total {total}")

    async def many(number):
        await asyncio.to_thread(double, number)
        die_if(f"after {number}")

    def fails():
        double(1)
        if os.environ.get("FAIL"):
            raise ValueError("not yet")

    def waits():
        sys.stderr.write("begun\\n")
        double(1)
        if not os.environ.get("GO"):
            threading.Event().wait(60)

    def naps():
        double(1)
        sys.stderr.write("begun\\n")
        while not os.environ.get("GO"):
            crewbus.current_run().check()

    async def pauses():
        double(1)
        sys.stderr.write("begun\\n")
        if not os.environ.get("GO"):
            await asyncio.Event().wait()
"""


class Place:
    """A directory in which `crewbus run` records, as it does where crewbus-sqlite is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "agents.py").write_text(dedent(AGENTS))
        site = folder / "site"
        metadata = site / "crewbus_sqlite-0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: crewbus-sqlite\nVersion: 0\n")
        setup = ConfigParser()
        setup.read(PLUGIN / "setup.cfg")
        (metadata / "entry_points.txt").write_text(f"[crewbus]{setup['options.entry_points']['crewbus']}\n")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("CREWBUS_")}
        path = [str(BESIDE), str(site), *filter(None, [self.env.get("PYTHONPATH")])]
        self.env["PYTHONPATH"] = os.pathsep.join(path)

    def __call__(self, *argv: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """The command, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "crewbus", *argv],
            cwd=cwd or self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def killed(self, *argv: str, die: str) -> subprocess.CompletedProcess[str]:
        """The command, which was killed."""
        done = self("run", *argv, DIE=die)
        assert done.returncode == -signal.SIGKILL, done.stderr
        return done

    def json(self, *argv: str) -> Any:
        """What the command prints for programs."""
        done = self(*argv, "--json")
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)

    @property
    def made(self) -> list[str]:
        """The steps that were executed, in order, by all processes."""
        return (self.folder / "made").read_text().split()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("die", "made", "out"),
    [
        ("in 0", "0 0 1 2", "[0][1][2] total 6"),
        ("after 0", "0 1 2", "[1][2] total 6"),
        ("in 1", "0 1 1 2", "[1][2] total 6"),
        ("after 1", "0 1 2", "[2] total 6"),
        ("in 2", "0 1 2 2", "[2] total 6"),
        ("after 2", "0 1 2", " total 6"),
    ],
)
def test_promise_05_a_killed_run_is_resumed_and_no_finished_step_runs_again(
    place: Place, die: str, made: str, out: str
) -> None:
    place.killed("agents:agent", die=die)
    done = place("resume", "latest")
    assert (done.returncode, done.stdout) == (0, out), done.stderr
    assert place.made == made.split()
    steps = int(die[-1]) + die.startswith("after")
    assert f"resuming agent: {steps} finished step" in done.stderr
    assert " finished in " in done.stderr


def test_a_killed_run_is_shown_as_interrupted_and_its_resumed_step_as_a_further_attempt(place: Place) -> None:
    place.killed("agents:agent", die="in 1")
    (info,) = place.json("runs", "--state", "interrupted")
    assert [(node["name"], node["state"]) for node in place.json("show", info["id"])["tree"]] == [
        ("agent", "interrupted"), ("double", "finished"), ("double", "interrupted"),
    ]  # fmt: skip
    assert place("resume", info["id"][:-3]).returncode == 0
    nodes = place.json("show", "latest")["tree"]
    assert [(node["name"], node["state"], node["attempt"]) for node in nodes] == [
        ("agent", "finished", 1), ("double", "finished", 1), ("double", "interrupted", 1),
        ("double", "finished", 2), ("double", "finished", 1),
    ]  # fmt: skip
    assert nodes[2]["retracted"] == 1
    shown = place("show", "latest").stdout
    assert "(attempt 2)" in shown
    assert "with pauses" in shown


def test_a_run_is_resumed_in_the_directory_where_it_was_started(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place.killed("agents.py:agent", "--arg", "steps=2", die="after 0")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    url = f"sqlite:///{place.folder / 'crewbus.db'}"
    done = place("resume", "latest", "--store", url, "--json", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] == 1
    assert place.made == ["0", "1"]
    assert not (elsewhere / "crewbus.db").exists()


def test_all_resumes_every_interrupted_run(place: Place) -> None:
    (place.folder / "in.jsonl").write_text("1\n2\n3\n4\n")
    place.killed("agents:many", "--input", "in.jsonl", "--concurrency", "2", die="after 3")
    open_runs = len(place.json("runs", "--state", "interrupted"))
    assert 1 <= open_runs <= 2
    summary = place.json("resume", "--all", "--concurrency", "2")
    assert (summary["runs"], summary["ok"]) == (open_runs, open_runs)
    assert place.json("runs", "--state", "interrupted") == []
    assert place("resume", "--all").stderr == "there is nothing to resume\n"
    assert place.json("resume", "--all")["runs"] == 0


def test_a_failed_run_is_resumed_and_a_finished_one_is_not(place: Place) -> None:
    assert place("run", "agents:fails", FAIL="1").returncode == 1
    assert place("resume", "latest").returncode == 0
    assert place.made == ["1"]
    again = place("resume", "latest")
    assert again.returncode == 2
    assert "finished" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_running_run_is_only_resumed_with_force(place: Place) -> None:
    with process(place.folder, "run", "agents:waits", env=place.env) as child:
        assert child.stderr is not None
        while (line := child.stderr.readline()) != "begun\n":
            assert line, "the child ended before it began"
        while not place.json("runs"):  # an event is on disk a moment after it was emitted
            assert child.poll() is None
        refused = place("resume", "latest")
        assert refused.returncode == 2
        assert f"held by process {child.pid} on " in refused.stderr
        assert "--force" in refused.stderr
        while not any(node["state"] == "finished" for node in place.json("show", "latest")["tree"]):
            assert child.poll() is None
        forced = place("resume", "latest", "--force", GO="1")
        assert forced.returncode == 0, forced.stderr
        assert place.made == ["1"]


def test_a_run_cancelled_by_ctrl_c_is_resumed(place: Place) -> None:
    with process(place.folder, "run", "agents:pauses", env=place.env) as child:
        assert child.stderr is not None
        assert child.stderr.readline() == "begun\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(TIMEOUT) == 130
    (info,) = place.json("runs")
    assert info["state"] == "cancelled"
    assert place("resume", "latest", GO="1").returncode == 0
    assert place.made == ["1"]


@pytest.mark.parametrize("target", ["pauses", "naps"])
def test_promise_13_a_run_that_is_terminated_is_suspended_and_resumed(place: Place, target: str) -> None:
    with process(place.folder, "run", f"agents:{target}", env=place.env) as child:
        assert child.stderr is not None
        assert child.stderr.readline() == "begun\n"
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=TIMEOUT)
    assert child.returncode == 143
    assert "terminated: suspending 1 run, for at most" in err
    (info,) = place.json("runs", "--state", "suspended")
    assert f"resume with 'crewbus resume {short_id(info['id'])}'" in err
    assert (info["reason"], info["holder"]) == ("terminated", None)
    assert {node["state"] for node in place.json("show", "latest")["tree"]} == {"suspended", "finished"}
    done = place("resume", "--all", GO="1")
    assert done.returncode == 0, done.stderr
    assert place.made == ["1"]
    assert place.json("runs")[0]["state"] == "finished"


def test_promise_13_several_terminated_runs_are_resumed_by_state(place: Place) -> None:
    (place.folder / "two.jsonl").write_text("{}\n{}\n")
    with process(place.folder, "run", "agents:pauses", "--input", "two.jsonl", "--json", env=place.env) as child:
        assert child.stderr is not None
        assert [child.stderr.readline() for _ in range(2)] == ["begun\n"] * 2
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=TIMEOUT)
    assert child.returncode == 143
    assert "suspending 2 runs" in err
    assert {info["id"] for info in place.json("runs", "--state", "suspended")} == {*json.loads(out)["suspended"]}
    assert place("resume", "--all", "--state", "interrupted,failed").stderr == "there is nothing to resume\n"
    assert place("resume", "--all", "--state", "suspended", GO="1").returncode == 0
    assert place.made == ["1", "1"]
    assert place("resume", "--all", "--state", "finished").returncode == 2
    assert place("resume", "latest", "--state", "failed").returncode == 2


def test_promise_13_following_a_run_that_is_suspended_goes_on(place: Place) -> None:
    with process(place.folder, "run", "agents:pauses", env=place.env) as child:
        assert child.stderr is not None
        assert child.stderr.readline() == "begun\n"
        with process(place.folder, "tail", "latest", "--follow", "--json", env=place.env) as follower:
            assert follower.stdout is not None
            lines = iter(follower.stdout.readline, "")
            assert any('"crewbus.StepFinished"' in line for line in lines)
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=TIMEOUT)
            assert any('"crewbus.RunSuspended"' in line for line in lines)
            assert place("resume", "latest", GO="1").returncode == 0
            *_, last = lines
            assert follower.wait(TIMEOUT) == 0
    assert json.loads(last)["name"] == "crewbus.RunFinished"


def test_following_a_run_that_is_killed_ends(place: Place) -> None:
    with process(place.folder, "run", "agents:waits", env=place.env) as child:
        assert child.stderr is not None
        while (line := child.stderr.readline()) != "begun\n":
            assert line, "the child ended before it began"
        while not place.json("runs"):
            assert child.poll() is None
        with process(place.folder, "tail", "latest", "--follow", "--json", env=place.env) as follower:
            assert follower.stdout is not None
            while '"crewbus.StepFinished"' not in (line := follower.stdout.readline()):
                assert line, "the follower ended before the run"
            child.kill()
            *_, last = follower.stdout.read().splitlines()
            assert follower.wait(TIMEOUT) == 0
    assert json.loads(last)["name"] == "crewbus.RunInterrupted"


def test_a_run_that_another_program_started_is_not_resumed(place: Place) -> None:
    (place.folder / "own.py").write_text(
        "import crewbus, os, signal\n"
        "bus = crewbus.default_bus()\n"
        "with bus.run('own') as run:\n"
        "    bus.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "own.py"], cwd=place.folder, env=place.env, timeout=TIMEOUT, check=False)
    done = place("resume", "latest")
    assert done.returncode == 2
    assert "was not started by 'crewbus run'" in done.stderr
    assert "bus.resume(" in done.stderr


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ([], "give either RUN or --all"),
        (["latest", "--all"], "give either RUN or --all"),
        (["--all", "--at", "x"], "--at and --force need RUN, not --all"),
        (["latest"], "No runs in "),
    ],
)
def test_invalid_options_of_resume_are_errors(place: Place, argv: list[str], why: str) -> None:
    done = place("resume", *argv)
    assert done.returncode == 2
    assert f"crewbus: error: {why}" in done.stderr
    assert not (place.folder / "crewbus.db").exists(), "nothing is created to find nothing"
