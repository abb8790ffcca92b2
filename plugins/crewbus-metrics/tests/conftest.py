"""What holds for every test: the package of this checkout where none is installed, and no settings from outside."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("crewbus_metrics") is None:
    sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("CREWBUS_METRICS", raising=False)
    monkeypatch.setenv("CREWBUS_RECORD", "off")
