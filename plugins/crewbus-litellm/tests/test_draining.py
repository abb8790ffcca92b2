"""An async stream waits for the consumers of its chunks."""

from __future__ import annotations

import asyncio

import litellm

import crewbus

PARTS = [f"{number % 1000:03}" for number in range(3_000)]


async def agent():
    stream = await litellm.acompletion(
        "openai/gpt-4o", [{"role": "user", "content": "?"}], mock_response="".join(PARTS), stream=True
    )
    return len([part async for part in stream])


def test_a_long_answer_does_not_fail_its_stream(bus):
    async def main():
        async with bus.stream(agent) as stream:
            texts = [frame.event.text async for frame in stream if isinstance(frame.event, crewbus.Chunk)]
            return texts, await stream.aresult()

    texts, parts = asyncio.run(main())
    assert texts == PARTS
    assert parts >= len(PARTS)
