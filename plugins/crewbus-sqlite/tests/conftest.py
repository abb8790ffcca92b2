"""What holds for every test: the package of this checkout where none is installed, and no settings from outside."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# Last, so that what is installed comes first: where a process that a test spawns finds that test's module.
sys.path.append(str(Path(__file__).resolve().parents[3]))

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
if find_spec("crewbus_sqlite") is None:
    sys.path.insert(0, str(HERE.parent))


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("CREWBUS_STORE", raising=False)
    monkeypatch.setenv("CREWBUS_RECORD", "off")
