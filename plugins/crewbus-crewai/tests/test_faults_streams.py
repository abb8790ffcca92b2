"""Faults of crewAI's streams: present without the plugin, fixed with it."""

from __future__ import annotations

import contextvars
import gc
import weakref

import pytest
from crewai.events import event_bus
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMStreamChunkEvent
from crewai.utilities import streaming
from crewai.utilities.streaming import _current_stream_ids
from crews import CHUNKS, answer, installed

PIECES = CHUNKS + 1
NOBODY = {"index": 0, "name": "", "id": "", "agent_role": "", "agent_id": ""}


def known():
    """The handlers of chunks that crewAI's bus has."""
    return crewai_event_bus._sync_handlers.get(LLMStreamChunkEvent, frozenset())


def handlers():
    return len(known())


@pytest.fixture
def handled(monkeypatch):
    """How often crewAI calls a handler for a chunk."""
    called, stock = [], event_bus.is_call_handler_safe

    def count(handler, source, event, state=None):
        if isinstance(event, LLMStreamChunkEvent):
            called.append(handler)
        return stock(handler, source, event, state)

    monkeypatch.setattr(event_bus, "is_call_handler_safe", count)
    return called


@pytest.mark.parametrize("waiting", [1, 300])  # crewAI's cache of handlers has 256 places
def test_a_chunk_costs_the_same_however_many_streams_are_open(active, crew, handled, waiting):
    made = crew("open", stream=True)
    before = handlers()
    streams = [made.kickoff() for _ in range(waiting)]
    assert (handlers() == before) is active
    stream = made.kickoff()
    assert [chunk.content for chunk in stream] == answer("open")
    assert len(handled) == PIECES * (before if active else before + waiting + 1)
    for one in streams:
        one.close()
    assert handlers() == before


def test_a_stream_that_is_never_iterated_is_released(active, crew):
    made = crew("abandoned", stream=True)
    before = known()
    streams = [made.kickoff() for _ in range(3)]
    gone = [weakref.ref(stream) for stream in streams]
    streams.clear()
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    left = known() - before
    assert len(left) == (0 if active else 3)
    for handler in left:
        crewai_event_bus.off(LLMStreamChunkEvent, handler)


def test_a_stream_that_is_left_in_the_middle_leaves_nothing(active, crew):
    stream = crew("left", stream=True).kickoff()
    before = handlers()
    next(iter(stream))
    stream.close()
    assert handlers() == (before if active else before - 1)


def test_chunks_have_their_task(active, crew):
    made = crew("told", tasks=3, stream=True)
    for place, task in enumerate(made.tasks):
        task.name = f"task {place}"
    received = {(chunk.task_index, chunk.task_name, chunk.task_id) for chunk in made.kickoff()}
    if active:
        assert received == {(place, task.name, str(task.id)) for place, task in enumerate(made.tasks)}
    else:
        assert received == {(0, "", "")}


def test_chunks_on_a_loop_have_their_task(active, crew):
    import asyncio

    made = crew("async", stream=True)

    async def consume(kickoff):
        return [(chunk.content, chunk.task_id) async for chunk in await kickoff()]

    for kickoff in (made.akickoff, made.kickoff_async):
        chunks = asyncio.run(consume(kickoff))
        assert [text for text, _ in chunks] == answer("async")
        assert {task for _, task in chunks} == {str(made.tasks[0].id) if active else ""}


def test_chunks_of_a_stream_that_nobody_iterates_are_in_its_queue(active):
    states = [streaming.create_streaming_state(dict(NOBODY), []) for _ in range(2)]

    def emit(state, text):
        _current_stream_ids.set((state.stream_id,))
        crewai_event_bus.emit(None, LLMStreamChunkEvent(type="llm_stream_chunk", chunk=text, call_id="c"))

    for state, text in zip(states, "ab", strict=True):
        contextvars.copy_context().run(emit, state, text)
    assert [[state.sync_queue.get_nowait().content for _ in range(state.sync_queue.qsize())] for state in states] == [
        ["a"],
        ["b"],
    ]
    for state in states:
        crewai_event_bus.off(LLMStreamChunkEvent, state.handler)


def test_the_handlers_of_abandoned_streams_are_released():
    with installed():
        gone = [weakref.ref(streaming.create_streaming_state(dict(NOBODY), []).handler) for _ in range(3)]
        gc.collect()
        assert [ref() for ref in gone] == [None] * 3
