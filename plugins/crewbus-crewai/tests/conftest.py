"""Fixtures for every test: crewAI silent, with its own home, and this checkout's package if none is installed."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HOME = tempfile.mkdtemp(prefix="crewbus-crewai-")
sys.path.insert(0, str(HERE))
if find_spec("crewbus_crewai") is None:
    sys.path.insert(0, str(HERE.parent))

atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_DISABLE_TRACKING="true",
    CREWAI_DISABLE_VERSION_CHECK="true",
    CREWAI_STORAGE_DIR=f"{HOME}/storage",
    CREWAI_TESTING="true",
    CREWAI_TRACING_ENABLED="false",
    CREWBUS_RECORD="off",
    HOME=HOME,
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    LITELLM_LOG="CRITICAL",
    NO_PROXY="127.0.0.1",
    OPENAI_API_KEY="none",
    OTEL_SDK_DISABLED="true",
)
for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(proxy, None)

if find_spec("crewai") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what crewAI and its dependencies do while they are imported
        import crewai  # noqa: F401

THEIR_OWN = [
    "ignore::DeprecationWarning:crewai",
    "ignore::pydantic.warnings.PydanticDeprecatedSince211",
    # litellm's types, and the loop and connections that it makes for itself and keeps
    "ignore:Items? '.*' on TypedDict class '.*' (is|are) using the `ReadOnly` qualifier:UserWarning",
    "ignore:There is no current event loop:DeprecationWarning:litellm",
    "ignore:Accessing the 'model_.*fields' attribute on the instance is deprecated:DeprecationWarning",
    "ignore:unclosed event loop:ResourceWarning",
    "ignore:unclosed transport:ResourceWarning",
    "ignore:unclosed <socket:ResourceWarning",
    r"ignore:coroutine '(Logging|LoggingWorker)\..*' was never awaited:RuntimeWarning",
]


def pytest_configure(config):
    for warning in THEIR_OWN:
        config.addinivalue_line("filterwarnings", warning)


@pytest.fixture(scope="session", autouse=True)
def collected():
    """What they leave open is collected here, rather than by pytest at its end, when nothing is ignored any more."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The base URL of the model server that stands beside the checkout: five tagged chunks an answer."""
    from served import model_server

    with model_server(tmp_path_factory.mktemp("model"), "--chunks", "5", "--delay", "0") as url:
        yield url


@pytest.fixture
def bus():
    """A bus that gets crewAI's events; afterwards crewAI is restored."""
    from crews import installed

    with installed() as bus:
        yield bus


@pytest.fixture
def crew(model):
    """Makes crews whose answers contain their name."""
    from functools import partial

    from crews import make_crew

    return partial(make_crew, model)


@pytest.fixture(params=[True, False], ids=["with the plugin", "without"])
def active(request):
    """Whether the plugin is installed, for one bus: each test is run with it and without."""
    from crews import installed

    if not request.param:
        yield False
        return
    with installed():
        yield True
