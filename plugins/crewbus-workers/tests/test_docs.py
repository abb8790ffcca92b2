"""The README: its example is run and prints what stands below it, and names what exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import crewbus_workers
from crewbus.cli import CommandLine
from crewbus.testing import examples
from crewbus_workers import plugin

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = examples(README)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples_print_what_they_say(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert example.output
    example.check()


def test_commands_are_those_of_the_plugin():
    line = CommandLine()
    plugin.crewbus_cli_commands(line)
    named = re.findall(r"^\| `crewbus (\w+)", README.read_text("utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(line.commands)


def test_public_names_exist():
    for name in crewbus_workers.__all__:
        assert getattr(crewbus_workers, name).__doc__


def test_a_bus_that_queues_nothing_loads_next_to_nothing():
    code = """
        import sys, crewbus
        with crewbus.Bus(["crewbus_workers.plugin"], entry_points=False):
            slow = ("crewbus_workers", "crewbus.cli", "asyncio")
            print(*sorted(name for name in sys.modules if name.startswith(slow)))
    """
    here = [str(path) for path in sys.path if path]
    command = [sys.executable, "-c", textwrap.dedent(code)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(here)}
    loaded = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert loaded.split() == ["crewbus_workers", "crewbus_workers.events", "crewbus_workers.plugin"]
