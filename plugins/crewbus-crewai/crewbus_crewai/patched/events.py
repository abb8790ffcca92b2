"""crewAI's events: emitted on the bus as they are, in their order; stream chunks also as crewbus chunks."""

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
from crewbus_crewai.context import live_run
from crewbus_crewai.integration import contained, integration
from crewbus_crewai.patched.checkpoints import checkpoint_after
from crewbus_crewai.patched.kickoffs import awaits_kickoff
from crewbus_crewai.patched.model_calls import ModelCall
from crewbus_crewai.patched.streams import deliver
from crewbus_crewai.plain import as_plain, is_plain

LIVE: Final = frozenset({"agent", "agents", "callbacks", "crew", "flow", "from_agent", "from_task", "task", "tools"})
"""Fields with live objects; other fields of the event have their ids and names."""

NAMES: Final = ("agent_role", "crew_name", "flow_name", "method_name", "task_name", "tool_name")
"""Fields by which a resumed run recognises an event of a type that it repeats: ids and times are new each time."""

OF_THE_PROCESS: Final = (CCEnvEvent, CodexEnvEvent, CursorEnvEvent, DefaultEnvEvent)
"""Events about the process, emitted once: they do not belong to the kickoff that happens to be the first."""


def register() -> None:
    """Register crewAI's events as a family, which includes classes that are defined later."""
    crewbus.register_event(
        BaseEvent, structure=structure, unstructure=unstructure, subclasses=True, recognised_by=NAMES
    )


def prepare(wrapped: Any, events: CrewAIEventsBus, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Emit an event after crewAI has stamped it and before crewAI's handlers receive it."""
    wrapped(*args, **kwargs)
    deliver(*args, **kwargs)
    _emit_stamped(*args, **kwargs)


def _emit_stamped(source: Any, event: BaseEvent) -> None:
    bus = integration.bus_in_scope()
    if bus is not None:
        with contained("emitting an event of crewAI"):
            _forward(bus, source, event)
    checkpoint_after(source, event)


def _forward(bus: Bus, source: Any, event: BaseEvent) -> None:
    emit, call = _emit_function(bus, event), ModelCall.current()
    emit(event, source=source)
    if call is not None and isinstance(event, LLMCallCompletedEvent):
        call.set_usage(event.usage)
    chunk = chunk_of(event)
    if chunk is not None and _belongs(bus, call):
        emit(chunk, source=source)


def _belongs(bus: Bus, call: ModelCall | None) -> bool:
    """Whether a chunk here belongs to a run or a model call, and no nested call reports it."""
    return live_run(bus) is not None if call is None else not call.streamed_inside


def _emit_function(bus: Bus, event: BaseEvent) -> Callable[..., Any]:
    """What emits an event: in the scope here, in the innermost live run, or outside any run."""
    run, here = live_run(bus), crewbus.current_run(bus)
    if (
        isinstance(event, OF_THE_PROCESS)
        or (run is None and here is not None)
        or (run is not None and awaits_kickoff(run))
    ):
        return lambda event, source: Context().run(bus.emit, event, source=source)
    return bus.emit if run is None or run is here else run.emit


def chunk_of(event: BaseEvent) -> Chunk | None:
    """The chunk in ``event``; None if it is not a piece of an answer."""
    if isinstance(event, LLMStreamChunkEvent):
        call = event.tool_call
        return Chunk(event.chunk) if call is None else Chunk(call.function.arguments, "tool_call")
    return Chunk(event.chunk, "reasoning") if isinstance(event, LLMThinkingChunkEvent) else None


def unstructure(event: BaseEvent) -> Any:
    """``event`` as JSON, without live objects; what JSON cannot represent becomes its ``repr``.

    Of floats, pydantic writes those that are not finite as null.
    """
    dumped = _dumped(event)
    if is_plain(dumped):
        return dumped
    names = [name for name in (*type(event).model_fields, *(event.model_extra or ())) if name not in LIVE]
    return {name: field for name in names if (field := _field(event, name)) is not None}


def _dumped(event: BaseEvent, only: set[str] | None = None) -> Any:
    """``event``, or one field of it, as pydantic writes it; not plain, if pydantic cannot."""
    try:
        return event.model_dump(
            mode="json", include=only, exclude=set(LIVE), exclude_none=True, fallback=repr, serialize_as_any=True
        )
    except Exception:  # bytes that are no text, a cycle, a repr or serializer that fails
        return event


def _field(event: BaseEvent, name: str) -> Any:
    dumped = _dumped(event, {name})
    if is_plain(dumped):
        return dumped.get(name)
    return as_plain(dumped[name] if isinstance(dumped, dict) else getattr(event, name))


def structure(data: Any, cls: type[BaseEvent]) -> Any:
    """The event that `unstructure` wrote; omitted fields are None. Invalid data becomes an unknown event."""
    try:
        missing = {name: None for name, field in cls.model_fields.items() if name not in data and field.is_required()}
        if missing:  # which crewAI's validators would reject
            return cls.model_construct(**missing | data | dict(BaseEvent.model_validate(data)))
        return cls.model_validate(data)
    except Exception:
        return crewbus.UnknownEvent(f"{cls.__module__}.{cls.__qualname__}", 1, json.dumps(data))
