"""A store that survives its process: that of the example plugin, which need not be installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the store needs flock")

SOURCE = Path(__file__).parents[1] / "examples" / "plugins" / "crewbus-jsonl" / "crewbus_jsonl.py"

_spec = importlib.util.spec_from_file_location("example_of_a_journal_store", SOURCE)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)

JsonlStore = _module.JsonlStore
