"""Errors name the page about them."""

from __future__ import annotations

import configparser
import copy
import pickle
import traceback
from pathlib import Path

import pytest

import crewbus
from crewbus import exceptions
from crewbus.cli import main

ROOT = Path(__file__).parents[1]
ERRORS = [
    kind
    for kind in vars(exceptions).values()
    if isinstance(kind, type) and issubclass(kind, crewbus.CrewbusError) and kind.page
]


@pytest.mark.parametrize("kind", ERRORS)
def test_the_page_of_an_error_exists_and_its_traceback_names_it(kind):
    assert (ROOT / "docs" / f"{kind.page}.md").is_file()
    words = ("r1", "ValueError", "wrong") if kind in (crewbus.RunFailedError, crewbus.StepFailedError) else ("wrong",)
    for error in (made := kind(*words), copy.copy(made), pickle.loads(pickle.dumps(made))):
        assert error.args == words
        *_, page = traceback.format_exception_only(error)
        assert page == f"See the page {kind.page} of crewbus's documentation.\n"


def test_one_place_sets_the_address(monkeypatch):
    monkeypatch.setattr(exceptions, "DOCUMENTATION", "https://example.org/")
    error = crewbus.FlushError("late")
    assert error.__notes__ == ["See https://example.org/howto/end-cleanly.html"]


def test_the_metadata_has_the_same_address():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    urls = dict(line.split(" = ") for line in setup["metadata"].get("project_urls", "").split("\n") if line)
    assert urls.get("Documentation", "") == exceptions.DOCUMENTATION


def test_the_command_names_the_page(capsys):
    with crewbus.Bus(entry_points=False) as bus:
        assert main(["export", "nowhere"], bus=bus) == 2
    assert "See the page howto/record-runs" in capsys.readouterr().err
