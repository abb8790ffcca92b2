"""Open faults of LangChain and LangGraph that a bus cures."""

from __future__ import annotations

import asyncio

import pytest
from helpers import TIMEOUT
from models import Scripted, State, graph_of

import crewbus


def burst(count):
    """A graph in whose subgraph a model streams ``count`` parts, all at once."""

    def leaf(state: State) -> State:
        parts = Scripted(parts=[f"{i} " for i in range(count)]).stream("?")
        return {"said": "".join(part.text for part in parts)}

    subgraph = graph_of(leaf, name="inner")

    def node(state: State) -> State:
        return subgraph.invoke(state)

    return graph_of(node)


async def in_executor(function):
    """As asyncio does it, without the context."""
    return await asyncio.get_running_loop().run_in_executor(None, function)


async def in_crewbus_executor(function):
    with crewbus.ThreadPoolExecutor(1) as pool:
        return await asyncio.wrap_future(pool.submit(function))


@pytest.mark.parametrize("elsewhere", [asyncio.to_thread, in_crewbus_executor])
@pytest.mark.parametrize("config", [None, {"callbacks": []}])
def test_langchain_38484_a_model_that_lost_its_config_still_belongs_to_its_node(heard, elsewhere, config):
    """An agent's node calls its model from a helper, without the config or with callbacks of its own."""

    async def node(state: State) -> State:
        return {"said": (await elsewhere(lambda: Scripted().invoke("?", config))).text}

    asyncio.run(graph_of(node).ainvoke({"asked": "?"}))
    assert heard.where(crewbus.CallStarted) == ["LangGraph/node"]


def test_langchain_38484_in_a_bare_thread_the_call_is_reported_all_the_same(heard):
    async def node(state: State) -> State:
        return {"said": (await in_executor(lambda: Scripted().invoke("?"))).text}

    asyncio.run(graph_of(node).ainvoke({"asked": "?"}))
    assert heard.end.output == "The moon."


@pytest.fixture
def recorded(bus):
    """The id of the recorded run of a graph that streamed 40 parts in less than a few milliseconds."""
    bus.enable_recording("memory://")
    with bus.run("asked", id="asked"):
        burst(40).invoke({"asked": "?"})
    return "asked"


def frames_after(bus, run_id, cursor):
    """The frames after a cursor, and the cursor after each of them."""
    with bus.subscribe(run_id, after=cursor) as stream:
        return [(one.event, stream.cursor) for one in stream]


def test_langgraph_8112_frames_of_one_millisecond_have_cursors_of_their_own(bus, recorded):
    frames = frames_after(bus, recorded, "start")
    cursors = [cursor for _, cursor in frames]
    assert len(set(cursors)) == len(frames) == 41
    for i in (0, 9, 10, 11, 39):  # where ids that are compared as text go wrong
        assert frames_after(bus, recorded, cursors[i]) == frames[i + 1 :]


def test_langgraph_7778_frames_of_nested_graphs_come_after_a_reconnect_too(bus, recorded):
    frames = frames_after(bus, recorded, "start")
    half = frames_after(bus, recorded, frames[19][1])
    texts = [event.text for event, _ in frames[:20] + half if isinstance(event, crewbus.Chunk)]
    assert texts == [f"{i} " for i in range(40)]


def test_a_slow_consumer_holds_its_graph_up_instead_of_filling_the_memory(bus):
    """The model of a node is never further ahead of the consumer than two buffers."""
    made = []
    model = Scripted(parts=["x"] * 500, between=lambda: made.append(1))

    def node(state: State) -> State:
        return {"said": "".join(part.text for part in model.stream("?"))}

    seen = 0
    with bus.stream(graph_of(node).invoke, {"asked": "?"}, options=crewbus.StreamOptions(bound=8)) as stream:
        for frame in stream:
            seen += isinstance(frame.event, crewbus.Chunk)
            assert len(made) <= seen + 16 + 1
    assert seen == 500


def test_a_slow_watcher_costs_its_buffer_and_is_told_what_it_missed(bus):
    async def main():
        async with bus.run("asked") as run:
            watcher = bus.subscribe(run.id, bound=8)
            await graph_of(burst_node).ainvoke({"asked": "?"})
        async with watcher:
            return [one.event async for one in watcher]

    async def burst_node(state: State) -> State:
        parts = Scripted(parts=["x"] * 500).astream("?")
        return {"said": "".join([part.text async for part in parts])}

    frames = asyncio.run(asyncio.wait_for(main(), TIMEOUT))
    missed = sum(frame.count for frame in frames if isinstance(frame, crewbus.Dropped))
    got = len([frame for frame in frames if isinstance(frame, crewbus.Chunk)])
    assert (got + missed, got <= 8) == (500, True)
