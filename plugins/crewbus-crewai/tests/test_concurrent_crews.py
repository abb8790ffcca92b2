"""128 concurrent crews through litellm and HTTP: each stream has exactly what the server sent to its crew."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from crewai.events.types.llm_events import LLMStreamChunkEvent
from crews import answer, consumed, consumed_async, make_llm, texts

import crewbus
from crewbus import RunFinished

CREWS = 128
PATIENCE = 60.0
"""Seconds after which the crews have failed to meet."""


@pytest.fixture
def crews(crew, model):
    """Makes many crews, each with a model of its own."""

    def make(prefix, count=CREWS):
        # litellm has a pool of connections for each key, in which there may be no more than a hundred.
        llms = (make_llm(model, is_litellm=True, api_key=f"{prefix}-{number % 4}") for number in range(count))
        return {f"{prefix}-{number}": crew(f"{prefix}-{number}", llm=llm) for number, llm in enumerate(llms)}

    return make


def check(tag, frames, output):
    assert texts(frames) == answer(tag)
    assert [type(frame.event) for frame in frames[:-1]] == [crewbus.Chunk] * len(answer(tag))
    assert frames[-1].event == RunFinished()
    assert len({frame.run_id for frame in frames if isinstance(frame.event, crewbus.Chunk)}) == 1
    assert output.raw == "".join(answer(tag)[1:]).strip()


@pytest.fixture
def all_open(bus):
    """Has each crew wait, at the first piece of its answer, until all the others are there."""
    together, passed = threading.Barrier(CREWS), []

    def wait(envelope):
        if envelope.event.chunk == "Final Answer: ":
            together.wait(PATIENCE)
            passed.append(envelope.run_id)

    bus.on(LLMStreamChunkEvent, wait)
    return passed


def test_in_threads(bus, crews, all_open):
    made = crews("thread")
    streams = [bus.stream(one.kickoff) for one in made.values()]
    with ThreadPoolExecutor(CREWS) as consumers:
        for tag, (frames, output) in zip(made, consumers.map(consumed, streams), strict=True):
            check(tag, frames, output)
    assert len(set(all_open)) == CREWS


def test_on_a_loop(bus, crews):
    made = crews("loop")

    async def main():
        return await asyncio.gather(*(consumed_async(bus.stream(one.akickoff)) for one in made.values()))

    for tag, (frames, output) in zip(made, asyncio.run(main()), strict=True):
        check(tag, frames, output)


def test_with_crewbus_litellm_each_chunk_is_reported_once(bus, crews):
    crewbus_litellm = pytest.importorskip("crewbus_litellm")
    calls = Counter()
    bus.on(crewbus.CallStarted, lambda envelope: calls.update([envelope.event.name]))
    made = crews("told", 8)
    crewbus_litellm.install(bus)
    try:
        for tag, one in made.items():
            check(tag, *consumed(bus.stream(one.kickoff)))
    finally:
        crewbus_litellm.uninstall(bus)
    assert calls == {"openai/fake": 2 * len(made)}  # crewAI's, and litellm's in it
