"""What holds for every test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# So that what is durable is tested on every Python, where crewbus-sqlite is not installed too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "plugins" / "crewbus-sqlite"))


@pytest.fixture(scope="session", autouse=True)
def own_directory(tmp_path_factory):
    """Each worker stands in a directory of its own, and nothing records unless a test asks for it."""
    before = Path.cwd()
    os.environ.setdefault("CREWBUS_RECORD", "off")
    os.chdir(tmp_path_factory.mktemp("worker"))
    yield
    os.chdir(before)
