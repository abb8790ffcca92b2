"""Fixtures for every test: nothing is traced or recorded elsewhere; this checkout's package if none is installed."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
for name in ("crewbus_langchain", "crewbus_sqlite"):
    if find_spec(name) is None:
        sys.path.insert(0, str(HERE.parents[1] / name.replace("_", "-")))

os.environ.update(CREWBUS_RECORD="off", LANGSMITH_TRACING="false", OPENAI_API_KEY="none", NO_PROXY="127.0.0.1")

if any(find_spec(name) is None for name in ("langchain_core", "langgraph", "langchain_openai")):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    """The base URL of the model server beside the checkout."""
    from served import RECORDED, model_server

    with model_server(tmp_path_factory.mktemp("server"), "--data", str(RECORDED), "--delay", "0") as address:
        yield address


@pytest.fixture
def bus():
    """A bus that langchain's work is reported to; afterwards langchain is restored, and nothing is left open."""
    from helpers import quiet_bus

    import crewbus_langchain
    from crewbus_langchain.open_scopes import open_scopes

    with quiet_bus() as bus:
        crewbus_langchain.install(bus)
        yield bus
    crewbus_langchain.uninstall()
    assert len(open_scopes) == 0


@pytest.fixture
def heard(bus):
    """What the bus hears."""
    from hearing import Hearing

    return Hearing(bus)
