"""Runs: each runnable, chain, graph and node is one, nested as langchain nests them, in whatever context it runs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from uuid import uuid4

import pytest
from helpers import TIMEOUT, in_thread
from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, StreamWriter, interrupt
from models import Scripted, State, graph_of

import crewbus
import crewbus_langchain

CHAIN = ChatPromptTemplate.from_template("say {x}") | Scripted()
TREE = ["RunnableSequence", "RunnableSequence/ChatPromptTemplate"]


async def collected(stream):
    return [one async for one in stream]


STYLES = {
    "invoke": lambda runnable, given: runnable.invoke(given),
    "stream": lambda runnable, given: list(runnable.stream(given)),
    "ainvoke": lambda runnable, given: asyncio.run(runnable.ainvoke(given)),
    "astream": lambda runnable, given: asyncio.run(collected(runnable.astream(given))),
    "batch": lambda runnable, given: runnable.batch([given]),
    "abatch": lambda runnable, given: asyncio.run(runnable.abatch([given])),
    "astream_events": lambda runnable, given: asyncio.run(collected(runnable.astream_events(given))),
    "transform": lambda runnable, given: list(runnable.transform(iter([given]))),
}


@pytest.mark.parametrize("style", STYLES)
def test_a_chain_is_a_run_with_its_parts_nested_in_it(heard, style):
    STYLES[style](CHAIN, {"x": 1})
    assert heard.tree == TREE
    assert heard.where(crewbus.CallStarted) == ["RunnableSequence"]
    assert [type(end) for end in heard.of(crewbus.RunEnded)] == [crewbus.RunFinished] * 2
    assert heard.started[1].event.tags == {"langchain.type": "prompt"}


@pytest.mark.parametrize("style", [style for style in STYLES if style != "transform"])
def test_the_nodes_of_a_graph_are_runs_of_its_run_and_what_they_emit_belongs_to_them(heard, bus, style):
    def one(state: State) -> State:
        bus.chunk("1")
        return {"said": Scripted().invoke("?").text}

    def two(state: State) -> State:
        bus.chunk("2")
        return {"said": state["said"] + "!"}

    STYLES[style](graph_of(one, two), {"asked": "?"})
    assert heard.tree == ["LangGraph", "LangGraph/one", "LangGraph/two"]
    *first, last = heard.where(crewbus.Chunk)
    assert (set(first), last) == ({"LangGraph/one"}, "LangGraph/two")
    assert heard.where(crewbus.CallStarted) == ["LangGraph/one"]
    assert [(one.event.tags, one.event.key) for one in heard.started[1:]] == [
        ({"langgraph.node": "one", "langgraph.step": "1"}, "1/pull/one"),
        ({"langgraph.node": "two", "langgraph.step": "2"}, "2/pull/two"),
    ]


def test_async_nodes_and_graphs_in_nodes_are_nested(heard, bus):
    async def leaf(state: State) -> State:
        await asyncio.sleep(0)
        bus.chunk("leaf")
        return {"said": "x"}

    inner = graph_of(leaf, name="inner")

    async def outer(state: State) -> State:
        return await inner.ainvoke(state)

    asyncio.run(graph_of(outer).ainvoke({"asked": "?"}))
    assert heard.tree == ["LangGraph", "LangGraph/outer", "LangGraph/outer/inner", "LangGraph/outer/inner/leaf"]
    assert heard.where(crewbus.Chunk) == ["LangGraph/outer/inner/leaf"]


def test_nodes_of_one_step_and_sends_are_told_apart_by_their_keys(heard, bus):
    def fan(state: State) -> Command[str]:
        return Command(goto=[Send("worker", {"asked": str(i)}) for i in range(3)])

    def worker(state: State) -> State:
        bus.chunk(state["asked"])
        return {}

    builder = StateGraph(State)
    builder.add_node("fan", fan)
    builder.add_node("worker", worker)
    builder.add_edge(START, "fan")
    builder.compile().invoke({"asked": "?"})
    assert heard.where(crewbus.Chunk) == ["LangGraph/worker"] * 3
    workers = [one for one in heard.started if one.event.name == "worker"]
    assert sorted(one.event.key for one in workers) == [f"2/push/{i}" for i in range(3)]
    spoken = {one.run_id: one.event.text for one in heard.envelopes if isinstance(one.event, crewbus.Chunk)}
    assert sorted(spoken.values()) == ["0", "1", "2"]


def test_tasks_of_the_functional_api_are_runs(heard, bus):
    @task
    def double(x: int) -> int:
        bus.chunk(str(x))
        return 2 * x

    @entrypoint()
    def whole(x: int) -> int:
        return sum(one.result() for one in [double(x), double(x + 1)])

    assert whole.invoke(1) == 6
    assert heard.tree == ["LangGraph", "LangGraph/whole", *["LangGraph/whole/double"] * 2]
    assert heard.where(crewbus.Chunk) == ["LangGraph/whole/double"] * 2
    assert len({one.event.key for one in heard.started if one.event.name == "double"}) == 2


def test_branches_are_runs_with_their_keys(heard):
    RunnableParallel(left=lambda x: x, right=lambda x: -x).invoke(1)
    assert sorted(one.event.key for one in heard.started[1:]) == ["left", "right"]


def test_a_failure_is_the_runs(heard):
    def broken(_):
        raise ValueError("no tide")

    with pytest.raises(ValueError, match="no tide"):
        (RunnableLambda(broken) | Scripted()).invoke(1)
    assert [(end.error, end.message) for end in heard.of(crewbus.RunFailed)] == [("builtins.ValueError", "no tide")] * 2


def test_the_outermost_run_has_the_id_that_was_chosen_for_it(heard, bus):
    chosen = uuid4()
    with bus.subscribe(str(chosen)) as stream:
        CHAIN.invoke({"x": 1}, {"run_id": chosen})
        assert type(list(stream)[-1].event) is crewbus.RunFinished
    CHAIN.invoke({"x": 1}, {"run_id": chosen})  # again: it is free once the run has ended
    assert [one.run_id for one in heard.started if one.event.parent_run is None] == [str(chosen)] * 2


def test_an_id_in_use_is_not_taken_twice(heard, bus):
    chosen = uuid4()
    again = RunnableLambda(lambda x: x)
    with bus.run("other", id=str(chosen)):
        in_thread(again.invoke, 1, {"run_id": chosen}).result(TIMEOUT)
    assert heard.tree == ["other", "RunnableLambda"]
    assert heard.started[1].run_id != str(chosen)


def test_a_chain_in_a_run_is_nested_in_it_and_so_is_what_it_streams(heard, bus):
    with bus.stream(lambda: list(CHAIN.stream({"x": 1}))) as stream:
        frames = [one.event for one in stream]
    assert heard.path(heard.started[1].run_id).endswith("<lambda>/RunnableSequence")
    assert [one.text for one in frames if isinstance(one, crewbus.Chunk)] == ["The ", "moon."]


# Contexts


def test_nothing_stays_behind_in_the_context_of_a_streams_consumer(heard, bus):
    """Two streams take turns in one thread, and the consumer emits in between."""
    with bus.run("consumer"):
        streams = [CHAIN.stream({"x": i}) for i in range(2)]
        for _ in range(2):
            for stream in streams:
                next(stream)
                bus.emit(crewbus_langchain.CustomEvent("mine"))
        for stream in streams:
            stream.close()
    assert heard.where(crewbus_langchain.CustomEvent) == ["consumer"] * 4
    assert crewbus.current_run() is None


def test_nothing_stays_behind_in_the_context_of_an_async_streams_consumer(heard, bus):
    async def main():
        async with bus.run("consumer"):
            streams = [CHAIN.astream({"x": i}) for i in range(2)]
            for _ in range(2):
                for stream in streams:
                    await anext(stream)
                    bus.emit(crewbus_langchain.CustomEvent("mine"))
            for stream in streams:
                await stream.aclose()

    asyncio.run(main())
    assert heard.where(crewbus_langchain.CustomEvent) == ["consumer"] * 4
    assert len(heard.of(crewbus.CallCancelled)) == 2


def test_a_stream_that_is_consumed_in_another_thread_belongs_where_it_began(heard, bus):
    with bus.run("origin"):
        stream = CHAIN.stream({"x": 1})
        next(stream)
    in_thread(list, stream).result(TIMEOUT)
    assert set(heard.where(crewbus.Chunk)) == {"origin/RunnableSequence"}


def test_what_code_opens_in_a_node_is_around_what_it_then_calls(heard, bus):
    def node(state: State) -> State:
        with bus.run("mine"):
            Scripted().invoke("?")
        return {}

    graph_of(node).invoke({"asked": "?"})
    assert heard.where(crewbus.CallStarted) == ["LangGraph/node/mine"]


def test_the_parent_that_langchain_names_counts_and_not_the_context(heard, bus):
    """A node hands its config to a pool whose threads were started elsewhere, and have the context of that."""
    started_elsewhere = ThreadPoolExecutor(1)
    with bus.run("elsewhere"):
        context = copy_context()

        def node(state: State, config: RunnableConfig) -> State:
            started_elsewhere.submit(context.run, Scripted().invoke, "?", config).result(TIMEOUT)
            return {}

        in_thread(graph_of(node).invoke, {"asked": "?"}).result(TIMEOUT)
    started_elsewhere.shutdown()
    assert heard.where(crewbus.CallStarted) == ["LangGraph/node"]


def test_a_model_that_gets_no_config_in_a_bare_thread_is_reported_with_its_callbacks(bus, heard):
    """The config is lost, and the context with it: the call is one of its own, and not lost."""

    def node(state: State) -> State:
        return {"said": in_thread(Scripted().invoke, "?").result(TIMEOUT).text}

    graph_of(node).invoke({"asked": "?"})
    assert heard.end.output == "The moon."


# Tools and what code reports


def test_a_tool_is_a_call_and_what_it_runs_is_in_it(heard, bus):
    @tool
    def search(query: str) -> str:
        """Search."""
        bus.chunk("searching")
        return CHAIN.invoke({"x": query}).text

    search.invoke({"query": "tides"})
    started = heard.of(crewbus.CallStarted)[0]
    assert (started.name, started.kind, started.input) == ("search", "tool", {"query": "tides"})
    (chunk,) = [one for one in heard.envelopes if isinstance(one.event, crewbus.Chunk)]
    assert heard.envelopes[0].id == chunk.parent
    assert heard.tree == TREE
    assert heard.of(crewbus.CallFinished)[-1].output == "The moon."


def test_custom_events_belong_to_the_run_that_dispatched_them(heard):
    def sync_(x):
        dispatch_custom_event("progress", {"done": x})
        return x

    async def async_(x):
        await adispatch_custom_event("progress", object)
        return x

    RunnableLambda(sync_).invoke(1)
    asyncio.run(RunnableLambda(async_).ainvoke(2))
    assert heard.where(crewbus_langchain.CustomEvent) == ["sync_", "async_"]
    first, second = heard.of(crewbus_langchain.CustomEvent)
    assert (first.name, first.data) == ("progress", {"done": 1})
    assert second.data == "<class 'object'>"


@pytest.mark.parametrize("modes", ["values", ["custom", "updates"]])
def test_what_is_written_to_a_graphs_stream_is_an_event_of_the_node(heard, modes):
    def inner(state: State, writer: StreamWriter) -> State:
        writer({"by": "argument"})
        return {}

    subgraph = graph_of(inner)

    def node(state: State) -> State:
        get_stream_writer()({"by": "context"})
        subgraph.invoke(state)
        return {}

    parts = list(graph_of(node).stream({"asked": "?"}, stream_mode=modes, subgraphs=True))
    assert heard.where(crewbus_langchain.CustomOutput) == ["LangGraph/node", "LangGraph/node/LangGraph/inner"]
    assert [one.data for one in heard.of(crewbus_langchain.CustomOutput)] == [{"by": "context"}, {"by": "argument"}]
    assert len([part for part in parts if part[1] == "custom"]) == (2 if "custom" in modes else 0)


def test_an_interrupt_is_told_and_is_no_failure(heard):
    def ask(state: State) -> State:
        return {"said": interrupt({"question": "go on?"})}

    graph = graph_of(ask, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    graph.invoke({"asked": "?"}, config)
    (told,) = heard.of(crewbus_langchain.Interrupted)
    assert told.values == ({"question": "go on?"},)
    assert graph.invoke(Command(resume="yes"), config)["said"] == "yes"
    assert {type(end) for end in heard.of(crewbus.RunEnded)} == {crewbus.RunFinished}


def test_hidden_runs_are_not_reported_and_what_is_in_them_belongs_to_the_run_around(heard):
    hidden = RunnableLambda(lambda x: Scripted().invoke(x)).with_config(tags=["langsmith:hidden"])
    (RunnableLambda(str) | hidden).invoke(1)
    assert heard.tree == ["RunnableSequence", "RunnableSequence/str"]
    assert heard.where(crewbus.CallStarted) == ["RunnableSequence"]


# Being cancelled


def test_a_cancelled_run_ends_its_chain(heard, bus):
    chosen = uuid4()
    model = Scripted(parts=["a", "b"], between=lambda: len(heard.of(crewbus.Chunk)) and bus.cancel(str(chosen)))
    chain = RunnableLambda(str) | model
    with pytest.raises(crewbus.RunCancelledError):
        list(chain.stream(1, {"run_id": chosen}))
    assert heard.text == "a"
    assert [type(end) for end in heard.of(crewbus.RunEnded)][-1] is crewbus.RunCancelled
    assert type(heard.end) is crewbus.CallCancelled


def test_a_cancelled_run_around_interrupts_what_a_node_awaits(heard, bus):
    async def main():
        waiting = asyncio.Event()

        async def node(state: State) -> State:
            waiting.set()
            await asyncio.Event().wait()
            return {}

        async with bus.stream(graph_of(node).ainvoke, {"asked": "?"}) as stream:
            await waiting.wait()
            bus.cancel(stream.run_id)
            return [one.event async for one in stream]

    frames = asyncio.run(asyncio.wait_for(main(), TIMEOUT))
    assert type(frames[-1]) is crewbus.RunCancelled
    assert {type(end) for end in heard.of(crewbus.RunEnded)} == {crewbus.RunCancelled}
