"""The README: its example is run and prints what stands below it, its commands work, its names exist."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from sqlite_helpers import noted

from crewbus import exceptions
from crewbus.testing import examples
from crewbus_sqlite import SQLiteStore, _plugin

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text("utf-8")
EXAMPLES = examples(PLUGIN / "README.md")


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples_print_what_they_say(example):
    example.check()


def test_there_is_an_example():
    assert EXAMPLES
    assert all(example.output for example in EXAMPLES)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 shell")
def test_the_shell_reads_a_record_in_use():
    store = SQLiteStore("crewbus.db")
    epoch = store.begin("a")
    store.append("a", epoch, noted(0, name="tests.Begun"))
    for seq in (1, 2):
        store.append("a", epoch, noted(seq, data=b'{"text":"%d"}' % seq))
    store.flush()
    commands = [shlex.split(line) for line in re.findall(r"^    (sqlite3 .*)$", README, re.MULTILINE)]
    assert len(commands) == 2
    printed = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for command in commands]
    assert printed[0] == "a|1|2|0\n"
    assert [line.rstrip("\0") for line in printed[1].splitlines()] == [
        '0|1|a|tests.Begun|{"text":"x"}',
        '1|2|a|tests.Noted|{"text":"',
        '"}',
        "1",
        "2",
    ]
    store.close()


def test_options_are_those_of_the_store():
    named = set(re.findall(r"^\| (?:`\w+=\d+`)? ?\| `(\w+)` \|", README, re.MULTILINE))
    assert named == set(inspect.signature(SQLiteStore).parameters) - {"path"}
    for option in re.findall(r"^\| `(\w+=\d+)` \|", README, re.MULTILINE):
        name, _, value = option.partition("=")
        assert inspect.signature(SQLiteStore).parameters[name].default == float(value)
        _plugin.crewbus_open_store(f"sqlite:///x.db?{option}").close()


def test_errors_that_are_named_exist():
    for name in re.findall(r"`(\w+Error)`", README):
        assert issubclass(getattr(exceptions, name), exceptions.CrewbusError)
