"""A plugin for pytest: what crewAI's tests need around them and the sdist lacks, and our plugins if asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_DISABLE_TRACKING="true",
    CREWAI_DISABLE_VERSION_CHECK="true",
    CREWAI_TESTING="true",
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    OTEL_SDK_DISABLED="true",
)
for _provider in ("ANTHROPIC", "GEMINI", "GOOGLE", "GROQ", "OPENAI", "OPENROUTER", "SERPER"):
    os.environ.setdefault(f"{_provider}_API_KEY", "none")


def pytest_configure(config: pytest.Config) -> None:
    """Install the plugins for one bus, which lives as long as the process."""
    config.addinivalue_line("markers", "telemetry: their own")
    mode = os.environ["CREWBUS_SUITE"]
    if mode != "stock":
        import crewbus
        import crewbus_crewai
        import crewbus_litellm

        bus = crewbus.Bus(entry_points=False)
        if mode == "recorded":
            bus.enable_recording(crewbus.MemoryStore())
        crewbus_crewai.install(bus)
        crewbus_litellm.install(bus)


@pytest.fixture(autouse=True)
def fresh_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A storage of its own for each test, a stack of events that is empty, and no handlers afterwards."""
    from crewai.events import base_events, event_context
    from crewai.events.event_bus import crewai_event_bus

    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path / "storage"))
    base_events.reset_emission_counter()
    event_context._event_id_stack.set(())
    event_context._event_context_config.set(event_context.EventContextConfig())
    yield
    with crewai_event_bus._rwlock.w_locked():
        crewai_event_bus._sync_handlers.clear()
        crewai_event_bus._async_handlers.clear()


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    """Answers come from their recordings, by what was asked for rather than by how."""
    return {"record_mode": "none", "match_on": ["method", "scheme", "host", "port", "path"]}


@pytest.fixture(scope="module")
def vcr_cassette_dir(request: pytest.FixtureRequest) -> str:
    """Where the recordings of a module are: in a folder like its own."""
    tests = next(parent for parent in request.path.parents if (parent / "cassettes").is_dir())
    return str(tests / "cassettes" / request.path.parent.relative_to(tests))
