"""The README: its example is run and prints what stands below it, and names what exists."""

from __future__ import annotations

import re
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
