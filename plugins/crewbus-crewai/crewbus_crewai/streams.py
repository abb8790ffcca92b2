"""crewAI's own streams: each hears of its own kickoff alone, while it is iterated, and says which task speaks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.events.stream_context import add_stream_sink, reset_stream_sinks
from crewai.events.types.crew_events import CrewKickoffStartedEvent
from crewai.events.types.llm_events import LLMStreamChunkEvent
from crewai.types.streaming import StreamChunk
from crewai.utilities.streaming import StreamingState

from crewbus_crewai.integration import contained

PLACES: Final = "places"
"""Where, in what crewAI knows of a stream's task, we keep the places of all its tasks: their numbers, by id."""


def unregistered(stock: Any, *args: Any, **kwargs: Any) -> StreamingState:
    """Make a stream whose handler is not among those of the bus: it is a sink of the stream's own context."""
    state: StreamingState = stock(*args, **kwargs)
    crewai_event_bus.off(LLMStreamChunkEvent, state.handler)
    return state


def iterated(stock: Any, state: StreamingState, run: Callable[[], None], *args: Any) -> Any:
    """Iterate over a stream: its handler hears what ``run`` emits."""

    def run_heard() -> None:
        with _heard(state):
            run()

    return stock(state, run_heard, *args)


def iterated_async(stock: Any, state: StreamingState, run: Callable[[], Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """As `iterated`."""

    async def run_heard() -> None:
        with _heard(state):
            await run()

    return stock(state, run_heard, *args)


@contextmanager
def _heard(state: StreamingState) -> Iterator[None]:
    places: dict[str, int] = {}
    info: Any = state.current_task_info
    info[PLACES] = places

    def sink(source: Any, event: BaseEvent) -> None:
        with contained("streaming a chunk"):
            if type(event) is LLMStreamChunkEvent:
                state.handler(source, event)
            elif isinstance(event, CrewKickoffStartedEvent):
                places.update((str(task.id), place) for place, task in enumerate(source.tasks))

    token = add_stream_sink(sink)
    try:
        yield
    finally:
        with suppress(ValueError):  # a coroutine that is thrown away may be closed in another context
            reset_stream_sinks(token)


def filled(stock: Any, event: LLMStreamChunkEvent, info: Any) -> StreamChunk:
    """A chunk that says which task it is of."""
    chunk: StreamChunk = stock(event, info)
    if event.task_id is not None:
        chunk.task_id = event.task_id
        chunk.task_name = event.task_name or ""
        chunk.task_index = info.get(PLACES, {}).get(event.task_id, 0)
    return chunk
