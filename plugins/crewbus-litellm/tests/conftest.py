"""Fixtures for every test: litellm offline and silent, and this checkout's package if none is installed."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
if find_spec("crewbus_litellm") is None:
    sys.path.insert(0, str(HERE.parent))

os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_LOG="CRITICAL", CREWBUS_RECORD="off", OPENAI_API_KEY="none"
)
os.environ["NO_PROXY"] = "127.0.0.1"

if find_spec("litellm") is None:
    collect_ignore_glob = ["test_*.py"]

LITELLMS_OWN = [
    # pydantic's, of litellm's types
    "ignore:Items? '.*' on TypedDict class '.*' (is|are) using the `ReadOnly` qualifier:UserWarning",
    "ignore:Accessing the 'model_.*fields' attribute on the instance is deprecated:DeprecationWarning",
    # it makes an event loop for itself in a thread that has none, and never closes it
    "ignore:There is no current event loop:DeprecationWarning:litellm",
    "ignore:unclosed event loop:ResourceWarning",
    # it keeps the connections of a loop that is closed
    "ignore:unclosed transport:ResourceWarning",
    "ignore:Unclosed (client session|connector):ResourceWarning",
    "ignore:unclosed <socket:ResourceWarning",
    # it leaves what it would log to a loop that is gone
    r"ignore:coroutine '(Logging|LoggingWorker)\..*' was never awaited:RuntimeWarning",
]


def pytest_configure(config):
    for warning in LITELLMS_OWN:
        config.addinivalue_line("filterwarnings", warning)


@pytest.fixture(scope="session", autouse=True)
def offline():
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the connections of loops that are closed
        asyncio.run(litellm.close_litellm_async_clients())
        litellm.in_memory_llm_clients_cache.flush_cache()
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def collecting_by_hand(offline):
    """Garbage is only collected explicitly.

    An abandoned stream closes its connection when it is collected, and where that happens inside the connection pool,
    httpcore waits for itself for ever, without us as with us.
    """
    gc.collect()
    gc.freeze()  # litellm is large
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.fixture(autouse=True)
def collected(collecting_by_hand):
    yield
    gc.collect()


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    """The base URL of the model server beside the checkout."""
    from served import RECORDED, model_server

    with model_server(tmp_path_factory.mktemp("server"), "--data", str(RECORDED), "--delay", "0") as address:
        yield address


@pytest.fixture(scope="session")
def server():
    from scripted import scripted_server

    with scripted_server() as script:
        yield script


@pytest.fixture
def bus():
    """A bus that receives litellm's calls; afterwards litellm is restored."""
    from helpers import quiet_bus

    import crewbus_litellm

    with quiet_bus() as bus:
        crewbus_litellm.install(bus)
        yield bus
    crewbus_litellm.uninstall()


@pytest.fixture
def own_lists(monkeypatch):
    """litellm's global callback lists, restored afterwards."""
    import litellm

    for name in vars(litellm).copy():
        if name == "callbacks" or name.endswith("_callback"):
            monkeypatch.setattr(litellm, name, list(getattr(litellm, name)))
