"""What holds for every test: a PostgreSQL server, a database URL for it, and no settings from outside."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# Last, so that what is installed comes first: where a process that a test spawns finds that test's module.
sys.path.append(str(Path(__file__).resolve().parents[3]))

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
if find_spec("crewbus_postgres") is None:
    sys.path.insert(0, str(HERE.parent))


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("CREWBUS_STORE", raising=False)
    monkeypatch.setenv("CREWBUS_RECORD", "off")


@pytest.fixture(scope="session")
def tcp_server():
    """A server that the tests of a process share; each leaves it running."""
    from postgres_servers import running_server

    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def server(request):
    """The URL of a database of a real server: that of CREWBUS_TEST_POSTGRES, or one started for the tests."""
    return os.environ.get("CREWBUS_TEST_POSTGRES") or request.getfixturevalue("tcp_server").url


@pytest.fixture
def schema(tmp_path):
    """A schema of this test's own."""
    from postgres_helpers import schema_for

    return schema_for(tmp_path)
