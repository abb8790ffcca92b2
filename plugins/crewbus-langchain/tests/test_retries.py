"""Retries of nodes and tasks: what a try streamed that failed is retracted, and nothing else is."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from models import Scripted, State, graph_of

import crewbus
import crewbus_langchain

POLICY = RetryPolicy(initial_interval=0, jitter=False, max_attempts=3, retry_on=ConnectionError)


def kept(envelopes):
    """The text that a consumer has in the end."""
    pieces = []
    for envelope in envelopes:
        match envelope.event:
            case crewbus.Chunk(text=text):
                pieces.append((envelope, text))
            case crewbus.Retracted() as gone:
                pieces = [piece for piece in pieces if not gone.covers(piece[0].seq, piece[0].parent)]
    return "".join(text for _, text in pieces)


def failing(times):
    """A model's answers: as many as are to fail midway, and then a whole one."""
    left = [ConnectionError("reset")] * times

    def answer():
        parts = ["The ", left.pop()] if left else ["The ", "moon."]
        return "".join(part.text for part in Scripted(parts=parts).stream("?"))

    return answer


def graph_with(node, **others):
    """A graph of a node before which, after which and beside which others stream."""
    builder = StateGraph(State)
    builder.add_node("before", others.get("before", lambda state: {"asked": "?"}))
    builder.add_node("node", node, retry_policy=POLICY)
    builder.add_node("beside", others.get("beside", lambda state: {"right": "?"}))
    builder.add_node("after", others.get("after", lambda state: {"left": "?"}))
    builder.add_edge(START, "before").add_edge("before", "node").add_edge("before", "beside").add_edge("node", "after")
    return builder.compile(checkpointer=others.get("checkpointer"))


def said(bus, text):
    def node(state):
        bus.chunk(text)
        return {}

    return node


@pytest.mark.parametrize("failures", [0, 1, 2])
@pytest.mark.parametrize("durable", [False, True])
def test_a_node_that_is_tried_again_is_told_once(bus, heard, failures, durable):
    if durable:
        bus.enable_recording(crewbus.MemoryStore())
        crewbus_langchain.install(bus, durable=True)
    answer = failing(failures)
    graph = graph_with(
        lambda state: {"said": answer()}, before=said(bus, "("), after=said(bus, ")"), beside=said(bus, "|")
    )
    assert graph.invoke({})["said"] == "The moon."
    text = kept(heard.envelopes)
    assert text.replace("|", "") == "(The moon.)"
    assert text.count("|") == 1
    tried = [event.number for event in heard.of(crewbus.AttemptStarted)]
    assert tried == list(range(1, failures + 2))
    assert len(heard.of(crewbus.Retracted)) == failures


@pytest.mark.parametrize("stream", [False, True])
def test_an_async_node_that_is_tried_again_is_told_once(bus, heard, stream):
    left = [ConnectionError("reset")]

    async def node(state):
        model = Scripted(parts=["The ", left.pop()] if left else ["The ", "moon."])
        return {"said": "".join([part.text async for part in model.astream("?")])}

    async def main():
        graph = graph_with(node, before=said(bus, "("), after=said(bus, ")"))
        if not stream:
            return (await graph.ainvoke({}))["said"]
        return [part async for part in graph.astream({}, stream_mode="values")][-1]["said"]

    assert asyncio.run(main()) == "The moon."
    assert kept(heard.envelopes) == "(The moon.)"
    assert [event.number for event in heard.of(crewbus.AttemptStarted)] == [1, 2]


def test_tasks_that_are_tried_again_at_once_retract_their_own(bus, heard):
    @task(retry_policy=POLICY)
    def asked(name):
        bus.chunk(f"{name}1 ")
        if name not in failed:
            failed.add(name)
            raise ConnectionError(name)
        bus.chunk(f"{name}2 ")
        return name

    @entrypoint()
    def whole(names):
        return [one.result() for one in [asked(name) for name in names]]

    failed = set()
    names = list("abcdef")
    assert whole.invoke(names) == names
    assert sorted(kept(heard.envelopes).split()) == sorted(f"{name}{part}" for name in names for part in (1, 2))


def test_a_node_that_gives_up_retracts_what_it_said(bus, heard):
    answer = failing(9)
    with pytest.raises(ConnectionError):
        graph_with(lambda state: {"said": answer()}, before=said(bus, "(")).invoke({})
    assert kept(heard.envelopes) == "("
    assert len(heard.of(crewbus.Retracted)) == POLICY.max_attempts


def test_a_node_that_hands_over_has_not_failed(bus, heard):
    def node(state):
        bus.chunk("Publish? ")
        answer = interrupt("?")
        bus.chunk(answer)
        return {"said": answer}

    config = {"configurable": {"thread_id": "t"}}
    graph = graph_with(node, checkpointer=InMemorySaver())
    graph.invoke({}, config)
    assert kept(heard.envelopes) == "Publish? "
    assert graph.invoke(Command(resume="yes"), config)["said"] == "yes"
    assert heard.of(crewbus.Retracted) == []


def test_a_node_without_a_policy_makes_no_attempts(heard):
    def node(state):
        return {"said": Scripted().invoke("?").text}

    graph_of(node).invoke({"asked": "?"})
    assert heard.of(crewbus.AttemptStarted) == []
