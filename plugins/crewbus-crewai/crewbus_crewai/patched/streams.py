"""crewAI's own streams: each receives the chunks of its own kickoff, with their tasks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from weakref import WeakValueDictionary

from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.events.stream_context import add_stream_sink, reset_stream_sinks
from crewai.events.types.crew_events import CrewKickoffStartedEvent
from crewai.events.types.llm_events import LLMStreamChunkEvent
from crewai.types.streaming import StreamChunk
from crewai.utilities.streaming import StreamingState, _current_stream_ids

from crewbus_crewai.integration import contained
from crewbus_crewai.patched.tasks import current_task

_handlers: Final[WeakValueDictionary[str, Callable[[Any, BaseEvent], None]]] = WeakValueDictionary()
"""The handlers of the streams that are still there, by the ids of the streams."""

TASK_INDEXES: Final = "task_indexes"
"""The key, in crewAI's information about a stream's task, of the indexes of all tasks by id."""


def create_state(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamingState:
    """Create a stream whose handler is not registered with crewAI's bus; `deliver` finds it by the stream's id."""
    state: StreamingState = wrapped(*args, **kwargs)
    crewai_event_bus.off(LLMStreamChunkEvent, state.handler)
    if state.stream_id is not None:
        _handlers[state.stream_id] = state.handler
    return state


def deliver(source: Any, event: BaseEvent) -> None:
    """Give a chunk to the streams whose kickoffs emit here."""
    if type(event) is LLMStreamChunkEvent:
        for stream_id in _current_stream_ids.get():
            handler = _handlers.get(stream_id)
            if handler is not None:
                with contained("streaming a chunk"):
                    handler(source, event)


def iterate(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Iterate over a stream, whose chunks get the indexes of their tasks."""

    def generate(state: StreamingState, run_func: Callable[[], None], *rest: Any) -> Any:
        def run() -> None:
            with _indexing(state):
                run_func()

        return wrapped(state, run, *rest)

    return generate(*args, **kwargs)


def iterate_async(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `iterate`."""

    def generate(state: StreamingState, run_coro: Callable[[], Coroutine[Any, Any, Any]], *rest: Any) -> Any:
        async def run() -> None:
            with _indexing(state):
                await run_coro()

        return wrapped(state, run, *rest)

    return generate(*args, **kwargs)


@contextmanager
def _indexing(state: StreamingState) -> Iterator[None]:
    indexes: dict[str, int] = {}
    info: Any = state.current_task_info
    info[TASK_INDEXES] = indexes

    def sink(source: Any, event: BaseEvent) -> None:
        with contained("streaming a chunk"):
            if isinstance(event, CrewKickoffStartedEvent):
                indexes.update((str(task.id), index) for index, task in enumerate(source.tasks))

    token = add_stream_sink(sink)
    try:
        yield
    finally:
        with suppress(ValueError):  # an abandoned coroutine may be closed in another context
            reset_stream_sinks(token)


def create_chunk(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamChunk:
    """Create a chunk with the id, name and index of its task."""
    chunk: StreamChunk = wrapped(*args, **kwargs)
    _set_task(chunk, *args, **kwargs)
    return chunk


def _set_task(chunk: StreamChunk, event: LLMStreamChunkEvent, current_task_info: Any) -> None:
    task = current_task.get()  # a model need not say for which task it answers
    task_id = event.task_id or (str(task.id) if task is not None else None)
    if task_id is not None:
        chunk.task_id = task_id
        chunk.task_name = event.task_name or (task.name if task is not None else None) or ""
        chunk.task_index = current_task_info.get(TASK_INDEXES, {}).get(task_id, 0)
