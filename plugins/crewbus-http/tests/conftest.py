"""What holds for every test: the package of this checkout where none is installed, and no settings from outside."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

# Last, so that what is installed comes first: where a process that a test spawns finds that test's module.
sys.path.append(str(Path(__file__).resolve().parents[3]))

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
for name in ("crewbus_http", "crewbus_workers", "crewbus_sqlite"):
    if find_spec(name) is None:
        sys.path.insert(0, str(HERE.parents[1] / name.replace("_", "-")))


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("CREWBUS_STORE", raising=False)
    monkeypatch.setenv("CREWBUS_RECORD", "off")


@pytest.fixture(autouse=True)
def own_workflows(monkeypatch):
    """A test knows no workflows but its own."""
    monkeypatch.setattr(import_module("crewbus_workers.workflows"), "_workflows", {})
