"""Crews for tests: their answers contain their name; and what their streams carry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import crewai
from crewai.events.event_bus import crewai_event_bus
from helpers import TIMEOUT, quiet_bus

import crewbus
import crewbus_crewai

CHUNKS = 5
"""How many tagged chunks the model server answers with, after "Final Answer: "."""


@contextmanager
def installed(**options: Any) -> Iterator[crewbus.Bus]:
    """A bus that gets crewAI's events; afterwards crewAI is restored."""
    with quiet_bus(**options) as bus:
        crewbus_crewai.install(bus)
        try:
            yield bus
        finally:
            crewbus_crewai.uninstall(bus)
            assert crewai_event_bus.flush(TIMEOUT)


def make_llm(model: str, **options: Any) -> Any:
    """An LLM that streams from the model server."""
    return crewai.LLM(**{"model": "openai/fake", "base_url": model, "api_key": "none", "stream": True, **options})


def make_crew(model: str, tag: str, tasks: int = 1, prompt: str = "", llm: Any = None, **options: Any) -> Any:
    """A crew of that name: ``tasks`` of them, each by its own agent, all but the last async."""

    def task(in_thread: bool) -> Any:
        agent = crewai.Agent(
            role=f"writer of {tag}", goal="to write", backstory="It wrote.", llm=llm or make_llm(model)
        )
        return crewai.Task(
            description=f"RUN={tag} {prompt}", expected_output="a text", agent=agent, async_execution=in_thread
        )

    made = [task(in_thread=number < tasks) for number in range(1, tasks + 1)]
    return crewai.Crew(name=tag, agents=[each.agent for each in made], tasks=made, **options)


def answer(tag: str, chunks: int = CHUNKS) -> list[str]:
    """What the model server streams for a tag."""
    return ["Final Answer: ", *(f"{tag}:{number} " for number in range(chunks))]


def texts(frames: Any) -> list[str]:
    """The texts of the chunks among frames."""
    return [frame.event.text for frame in frames if isinstance(frame.event, crewbus.Chunk)]


def consumed(stream: Any) -> tuple[list[Any], Any]:
    """All frames of a stream, and its result."""
    with stream:
        return list(stream), stream.result(TIMEOUT)


async def consumed_async(stream: Any) -> tuple[list[Any], Any]:
    """As `consumed`."""
    async with stream:
        return [frame async for frame in stream], await stream.aresult()
