"""A kickoff whose process was killed continues in another process, from a file."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from killed import crew, remembering

import crewbus
import crewbus_crewai

PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
TIMEOUT = 120.0

if not metadata.entry_points(group="crewbus", name="sqlite"):
    pytest.skip("needs crewbus-sqlite", allow_module_level=True)


@pytest.mark.parametrize("part", ["1", "2", "3"])
def test_a_killed_kickoff_repeats_only_unrecorded_calls(tmp_path, part):
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    program = f"import sys; sys.path[:0] = {PATHS!r}; import killed; killed.main({url!r}, {part!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    asked = []
    with crewbus.Bus(["sqlite"], entry_points=False) as bus:
        crewbus_crewai.install(bus)
        try:
            bus.enable_recording(url)
            (run_id,) = bus.store.roots()
            with bus.resume(run_id):
                output = crew(asked).kickoff()
            assert [task.raw for task in output.tasks_output] == ["text 1", "text 2", "text 3"]
            assert asked == list("123")[int(part) - 1 :]
            assert bus.records.info(run_id).state == "finished"
        finally:
            crewbus_crewai.uninstall()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of crewAI's memory and its storage
def test_a_killed_crew_with_memory_recalls_the_same_and_pays_no_call_twice(tmp_path):
    url, folder = f"sqlite:///{tmp_path / 'runs.db'}", str(tmp_path / "memory")
    program = f"import sys; sys.path[:0] = {PATHS!r}; import killed; killed.main({url!r}, '3', {folder!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    asked = []
    with crewbus.Bus(["sqlite"], entry_points=False) as bus:
        crewbus_crewai.install(bus)
        try:
            bus.enable_recording(url)
            (run_id,) = bus.store.roots()
            made = remembering(crew(asked), folder, asked)
            made._memory.remember("Part 4 is there as well.", scope="/", categories=[], importance=1.0)  # meanwhile
            asked.clear()
            with bus.resume(run_id):  # another prompt would be another step, and a call
                output = made.kickoff()
        finally:
            crewbus_crewai.uninstall()
        assert [task.raw for task in output.tasks_output] == ["text 1", "text 2", "text 3"]
        assert asked[0] == "3"
        assert set(asked[1:]) == {"analysis of 3"}
        saved = sorted(record.content for record in made._memory.list_records())
        assert saved == [*(f"It is about part {part}." for part in (1, 2, 3)), "Part 4 is there as well."]
