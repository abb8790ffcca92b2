"""Concurrent calls and graphs of all styles reach their own callbacks and streams, and no others."""

from __future__ import annotations

import asyncio
import json

import pytest
from hearing import Listener
from helpers import TIMEOUT, in_threads
from models import Scripted, graph_of
from served import RECORDED, recorded
from styles import STREAMED, STYLES, model, run

import crewbus

THREADS, CALLS = 8, 25
CHATS = [answer for answer in recorded() if answer["api"] == "chat.completions"]
SOME = [chat for chat in CHATS if chat["tool_call_chunks"]] + [chat for chat in CHATS if chat["text_chunks"]][:6]


def served_text(call: str) -> str:
    """What the server says to ``call``."""
    return "Final Answer: " + "".join(f"{call}:{i} " for i in range(3))


def test_200_concurrent_calls_in_eight_styles_each_reach_only_their_own_callback(bus, url):
    styles = list(STYLES.items())

    async def work(thread):
        heard = []
        async with model(url) as chat:
            for i in range(CALLS):
                call = f"t{thread}c{i}"
                style, function = styles[(thread + i) % len(styles)]
                listener = Listener()
                with bus.callbacks(listener):
                    await function(chat, f"RUN={call} CHUNKS=3")
                heard.append((call, style, listener))
        return heard

    heard = [one for thread in in_threads(THREADS, lambda thread: asyncio.run(work(thread))) for one in thread]
    at_home = sum(listener.end.output.strip() == served_text(call).strip() for call, _, listener in heard)
    assert (len(heard), at_home) == (THREADS * CALLS, THREADS * CALLS)
    for call, style, listener in heard:
        assert listener.names[0] == "CallStarted"
        assert len(listener.of(crewbus.CallStarted, crewbus.CallEnded)) == 2
        assert listener.text == (served_text(call) if style in STREAMED else "")


@pytest.mark.skipif(not CHATS, reason=f"needs {RECORDED.name} in the folder shared beside the checkout")
@pytest.mark.parametrize("style", ["stream", "astream"])
@pytest.mark.parametrize("chat", SOME, ids=[chat["id"] for chat in SOME])
def test_recorded_streams_are_reported_as_served(bus, url, chat, style):
    listener = Listener()
    with bus.callbacks(listener):
        text = run(STYLES[style], url, "?", model=chat["id"])
    events = [json.loads(line[6:]) for line in chat["sse"].split("\n\n") if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    assert listener.text == text == chat["text"]
    assert len([one for one in listener.of(crewbus.Chunk) if one.kind == "text"]) == len(
        [delta for delta in deltas if delta.get("content")]
    )
    arguments = "".join(call["function"].get("arguments", "") for call in calls)
    assert listener.spelled("tool_call") == arguments
    if calls:
        (received,) = listener.end.output["tool_calls"]
        assert received == {
            "id": calls[0]["id"], "name": calls[0]["function"]["name"], "arguments": json.loads(arguments),
        }  # fmt: skip
    else:
        assert listener.end.output == chat["text"]
    (usage,) = [event["usage"] for event in events if event.get("usage")] or [None]
    if usage is not None:
        assert listener.end.usage["total_tokens"] == usage["total_tokens"]
        assert listener.end.usage["input_tokens"] == usage["prompt_tokens"]


def graph_for(i):
    """A graph with a sync and an async node, whose models stream parts that say whose they are."""
    model = Scripted(parts=[f"{i}:{n} " for n in range(5)])

    def left(state):
        return {"left": "".join(part.text for part in model.stream("?"))}

    async def right(state):
        await asyncio.sleep(0)
        return {"right": "".join([part.text async for part in model.astream("?")])}

    async def both(state):
        return {"said": state["left"] + state["right"]}

    return graph_of(left, right, both)


def test_128_concurrent_graphs_stream_no_foreign_chunk(bus):
    async def watched(i):
        async with bus.stream(graph_for(i).ainvoke, {"asked": "?"}) as stream:
            frames = [one.event async for one in stream]
            return frames, (await stream.aresult())["said"]

    async def main():
        return await asyncio.gather(*(watched(i) for i in range(128)))

    for i, (frames, said) in enumerate(asyncio.run(asyncio.wait_for(main(), 3 * TIMEOUT))):
        text = "".join(frame.text for frame in frames if isinstance(frame, crewbus.Chunk))
        assert text == said == "".join(f"{i}:{n} " for n in range(5)) * 2
        assert type(frames[-1]) is crewbus.RunFinished
