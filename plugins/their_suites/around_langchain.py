"""A plugin for pytest: what runs is reported to a bus, which looks at all that it hears, and recorded if asked for."""

from __future__ import annotations

import os

import pytest

os.environ.update(LANGSMITH_TRACING="false", LANGGRAPH_TEST_FAST="true", NO_DOCKER="true")


def pytest_configure(config: pytest.Config) -> None:
    """Install the plugin for one bus, which lives as long as the process."""
    mode = os.environ["CREWBUS_SUITE"]
    if mode == "stock":
        return

    import crewbus
    import crewbus_langchain

    bus = crewbus.Bus(entry_points=False, unscoped="ignore")
    bus.on(object, repr)
    if mode == "recorded":
        bus.enable_recording(crewbus.MemoryStore(), content=True)
    crewbus_langchain.install(bus)
    config.add_cleanup(bus.close)
