"""128 crews at once, through litellm and HTTP: each stream has what the server sent to its crew, and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from crews import answer, consumed, consumed_async, make_llm, texts

import crewbus
from crewbus import RunFinished

CREWS = 128


@pytest.fixture
def crews(crew, model):
    """Makes many crews, each with a model of its own."""

    def make(prefix):
        tags = [f"{prefix}-{number}" for number in range(CREWS)]
        return {tag: crew(tag, llm=make_llm(model, is_litellm=True)) for tag in tags}

    return make


def check(tag, frames, output):
    assert texts(frames) == answer(tag)
    assert [type(frame.event) for frame in frames[:-1]] == [crewbus.Chunk] * len(answer(tag))
    assert frames[-1].event == RunFinished()
    assert len({frame.run_id for frame in frames[:-1]}) == 1
    assert output.raw == "".join(answer(tag)[1:]).strip()


def test_in_threads(bus, crews):
    made = crews("thread")
    streams = [bus.stream(one.kickoff) for one in made.values()]
    with ThreadPoolExecutor(CREWS) as consumers:
        for tag, (frames, output) in zip(made, consumers.map(consumed, streams), strict=True):
            check(tag, frames, output)


def test_on_a_loop(bus, crews):
    made = crews("loop")

    async def main():
        return await asyncio.gather(*(consumed_async(bus.stream(one.akickoff)) for one in made.values()))

    for tag, (frames, output) in zip(made, asyncio.run(main()), strict=True):
        check(tag, frames, output)


def test_with_litellm_told_too_each_piece_is_told_once(bus, crews):
    crewbus_litellm = pytest.importorskip("crewbus_litellm")
    crewbus_litellm.install(bus)
    calls = Counter()
    bus.on(crewbus.CallStarted, lambda envelope: calls.update([envelope.event.name]))
    try:
        test_in_threads(bus, crews)
    finally:
        crewbus_litellm.uninstall(bus)
    assert calls == {"openai/fake": 2 * CREWS}  # crewAI's, and litellm's in it
