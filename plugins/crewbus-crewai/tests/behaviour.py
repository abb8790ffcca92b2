"""What the tests of crewAI's own behaviour share: each runs without the plugin, and with it, by the same assertions.

A module of them takes the fixture by ``pytest_plugins = ["behaviour_fixtures"]``, and has each test use ``either_way``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

from helpers import TIMEOUT
from served import RECORDED as RECORDED_ANSWERS

__all__ = ["CHUNKS", "MODES", "RECORDED_ANSWERS", "agent", "answer", "crew", "crewai", "listening", "llm", "pieces"]

MODES = ["crewai alone", "with crewbus", "recorded by crewbus"]
CHUNKS = 3
"""How many tagged chunks the model server answers with, after "Final Answer: "."""

server = SimpleNamespace(url="")
"""Where the model server of this session is."""


@cache
def crewai() -> SimpleNamespace:
    """crewAI's names that the tests use, loaded by the first test that needs them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what crewAI and its dependencies do while they are imported
        import crewai as package
        from crewai import events, flow, state
        from crewai.events import event_bus, handler_graph, stream_context
        from crewai.events.types import checkpoint_events, flow_events
        from crewai.state import event_record
        from crewai.types import streaming

    found = {name: getattr(events, name) for name in events.__all__}  # some of which it loads when asked for
    modules = [package, flow, state, event_bus, handler_graph, stream_context, checkpoint_events, flow_events]
    for module in (*modules, event_record, streaming):
        found |= vars(module)
    return SimpleNamespace(**found)


def llm(**options: Any) -> Any:
    """A model that the server answers for."""
    return crewai().LLM(**{"model": "openai/fake", "base_url": server.url, "api_key": "none"} | options)


def agent(role: str = "writer", **options: Any) -> Any:
    """An agent with a model of its own, which gives up at the first failure."""
    return crewai().Agent(
        **{"goal": "to write", "backstory": "It wrote.", "max_retry_limit": 0} | options, role=role, llm=llm()
    )


def crew(*tags: str, prompt: str = "", **options: Any) -> Any:
    """A crew with a task for each tag, done by an agent of its own, one after the other."""
    agents = [agent(f"writer of {tag}") for tag in tags]
    tasks = [
        crewai().Task(name=tag, description=f"RUN={tag} {prompt}", expected_output="a text", agent=one)
        for tag, one in zip(tags, agents, strict=True)
    ]
    return crewai().Crew(name="+".join(tags), agents=agents, tasks=tasks, **options)


def pieces(tag: str, chunks: int = CHUNKS) -> list[str]:
    """What the model server streams for a tag."""
    return ["Final Answer: ", *(f"{tag}:{number} " for number in range(chunks))]


def answer(tag: str, chunks: int = CHUNKS) -> str:
    """What an agent makes of it."""
    return "".join(pieces(tag, chunks)[1:]).strip()


@contextmanager
def listening(*event_types: type, to: Callable[[Any, Any], Any] | None = None) -> Iterator[list[Any]]:
    """The events of these types that crewAI's bus hands to a handler meanwhile, all there once it is left."""
    heard: list[Any] = []

    def hear(source: Any, event: Any) -> None:
        heard.append(event)

    bus = crewai().crewai_event_bus
    for event_type in event_types:
        bus.register_handler(event_type, to or hear)
    try:
        yield heard
    finally:
        assert bus.flush(TIMEOUT)
        for event_type in event_types:
            bus.off(event_type, to or hear)
