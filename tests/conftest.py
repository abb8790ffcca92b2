"""What holds for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_directory(tmp_path_factory):
    """Each worker stands in a directory of its own, and nothing records unless a test asks for it."""
    before = Path.cwd()
    os.environ.setdefault("CREWBUS_RECORD", "off")
    os.chdir(tmp_path_factory.mktemp("worker"))
    yield
    os.chdir(before)
