"""What the spikes share: a framework is loaded by the first test that needs it, and talks to this machine only."""

from __future__ import annotations

import importlib.util
import warnings
from types import SimpleNamespace

import pytest
from served import model_server

CREWAI_QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TESTING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}
"""No telemetry, no tracing, no question about either, no look for a newer version."""


@pytest.fixture(scope="session")
def crewai(tmp_path_factory):
    """What the tests need of crewAI; skips where it is not installed."""
    if importlib.util.find_spec("crewai") is None:
        pytest.skip("needs crewai, which the tox environment spike-crewai installs")
    home = tmp_path_factory.mktemp("crewai")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREWAI_QUIET.items():
            patch.setenv(name, value)
        patch.setenv("HOME", str(home))
        patch.setenv("CREWAI_STORAGE_DIR", str(home / "storage"))
        for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(proxy, raising=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what crewAI and its dependencies do while they are imported
            loaded = _load()
        yield loaded


def _load():
    import crewai
    from crewai.events import event_bus
    from crewai.events.base_events import BaseEvent
    from crewai.events.types import llm_events, task_events
    from crewai.flow import flow, runtime
    from spikes import crewai_adapter, crewai_calls

    return SimpleNamespace(
        Adapter=crewai_adapter.Adapter,
        Agent=crewai.Agent,
        BaseEvent=BaseEvent,
        CallingAdapter=crewai_calls.CallingAdapter,
        Crew=crewai.Crew,
        Flow=flow.Flow,
        LLM=crewai.LLM,
        Task=crewai.Task,
        bus=event_bus.crewai_event_bus,
        bus_class=event_bus.CrewAIEventsBus,
        flow_class=runtime.Flow,
        llm_events=llm_events,
        start=flow.start,
        task_events=task_events,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The base URL of the local model server: five tagged chunks an answer."""
    with model_server(tmp_path_factory.mktemp("model"), "--chunks", "5", "--delay", "0.001") as url:
        yield url
