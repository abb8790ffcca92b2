"""crewAI's events: handed on as they are, in the order in which they are emitted; pieces of an answer as chunks too."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import CrewAIEventsBus
from crewai.events.types.env_events import CCEnvEvent, CodexEnvEvent, CursorEnvEvent, DefaultEnvEvent
from crewai.events.types.llm_events import LLMCallCompletedEvent, LLMStreamChunkEvent, LLMThinkingChunkEvent

import crewbus
from crewbus import Bus, Chunk
from crewbus_crewai.checkpoints import checkpoint_after
from crewbus_crewai.context import live_run
from crewbus_crewai.integration import contained, integration
from crewbus_crewai.kickoffs import is_before
from crewbus_crewai.model_calls import ModelCall

LIVE: Final = frozenset({"agent", "agents", "callbacks", "crew", "flow", "from_agent", "from_task", "task", "tools"})
"""Fields that hold live objects; a record has their ids and names in other fields."""

OF_THE_PROCESS: Final = (CCEnvEvent, CodexEnvEvent, CursorEnvEvent, DefaultEnvEvent)
"""Events of where crewAI runs, told once: they are no part of the kickoff that happens to be the first."""


def register() -> None:
    """Register crewAI's events as a family, so that those are known that are defined later."""
    crewbus.register_event(BaseEvent, structure=structure, unstructure=unstructure, subclasses=True)


def prepared(stock: Any, events: CrewAIEventsBus, source: Any, event: BaseEvent) -> None:
    """Hand on an event that crewAI has stamped, ahead of its handlers."""
    stock(events, source, event)
    bus = integration.bus_in_scope()
    if bus is not None:
        with contained("handing on an event"):
            _forward(bus, source, event)
    checkpoint_after(source, event)


def _forward(bus: Bus, source: Any, event: BaseEvent) -> None:
    emit, call = _place_of(bus, event), ModelCall.current()
    emit(event, source=source)
    if call is not None and isinstance(event, LLMCallCompletedEvent):
        call.used(event.usage)
    chunk = chunk_of(event)
    if chunk is not None and _belongs(bus, call):
        emit(chunk, source=source)


def _belongs(bus: Bus, call: ModelCall | None) -> bool:
    """Whether a chunk emitted here is anybody's, and is not told of by a call inside the model call."""
    return live_run(bus) is not None if call is None else not call.told_within


def _place_of(bus: Bus, event: BaseEvent) -> Callable[..., Any]:
    """Where an event is emitted: in the run, or the model call in it, that is in scope here and goes on."""
    run, here = live_run(bus), crewbus.current_run(bus)
    if isinstance(event, OF_THE_PROCESS) or (run is None and here is not None) or (run is not None and is_before(run)):
        return lambda event, source: Context().run(bus.emit, event, source=source)
    return bus.emit if run is None or run is here else run.emit


def chunk_of(event: BaseEvent) -> Chunk | None:
    """What a stream shows of ``event``; None for what is no piece of an answer."""
    if isinstance(event, LLMStreamChunkEvent):
        call = event.tool_call
        return Chunk(event.chunk) if call is None else Chunk(call.function.arguments, "tool_call")
    return Chunk(event.chunk, "reasoning") if isinstance(event, LLMThinkingChunkEvent) else None


def unstructure(event: BaseEvent) -> Any:
    """``event`` as JSON holds it: live objects are left out, and what JSON can't hold is described by its ``repr``."""
    return event.model_dump(mode="json", exclude=set(LIVE), exclude_none=True, fallback=repr, serialize_as_any=True)


def structure(data: Any, cls: type[BaseEvent]) -> Any:
    """The event of which `unstructure` gave ``data``; what was left out is None. What even so is none stays unknown."""
    try:
        missing = {name: None for name, field in cls.model_fields.items() if name not in data and field.is_required()}
        if missing:  # of which crewAI's validators would not approve
            return cls.model_construct(**missing | data | dict(BaseEvent.model_validate(data)))
        return cls.model_validate(data)
    except Exception:
        return crewbus.UnknownEvent(f"{cls.__module__}.{cls.__qualname__}", 1, json.dumps(data))
