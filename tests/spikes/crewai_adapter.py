"""crewAI on crewbus, as small as it can be: what a kickoff emits, in a run of its own.

Three things of crewAI are changed, on its classes, and put back by `Adapter.uninstall`:

- the methods that kick off enter a run around their work;
- ``CrewAIEventsBus._prepare_event``, where each event passes synchronously, in the context of whoever emits it, stamped
  by crewAI and ahead of every handler, hands it on;
- ``Task._execute_task_async``, which works in a bare thread, tells whoever waits for it also of a BaseException.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from crewai import Crew, Task
from crewai.agents.agent_builder.base_agent_executor import BaseAgentExecutor
from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import CrewAIEventsBus
from crewai.events.types.llm_events import LLMStreamChunkEvent, LLMThinkingChunkEvent
from crewai.flow.runtime import Flow

import crewbus

ENTITIES = frozenset({"agent", "agents", "callbacks", "crew", "flow", "from_agent", "from_task", "task", "tools"})
"""Fields that hold live objects; a record has their ids and names in other fields."""


class Adapter:
    """Carries the events of crewAI to the bus of the run in scope; outside any, to ``bus`` or else the default one."""

    def __init__(self, bus: crewbus.Bus | None = None) -> None:
        self._given = bus
        self._before: list[tuple[type, str, Any]] = []

    def install(self) -> None:
        """Change crewAI's classes; its events are registered as a family, so that later ones are known too."""
        crewbus.register_event(BaseEvent, structure=structure, unstructure=unstructure, subclasses=True)
        for cls, method in ((Crew, "kickoff"), (Crew, "akickoff"), (Flow, "kickoff_async")):
            self.change(cls, method, self._in_run)
        self.change(CrewAIEventsBus, "_prepare_event", self._forwarding)
        self.change(Task, "_execute_task_async", _telling)

    def uninstall(self) -> None:
        """Put everything back."""
        while self._before:
            cls, name, original = self._before.pop()
            setattr(cls, name, original)

    def change(self, cls: type, name: str, wrap: Callable[[Any], Any]) -> None:
        """Put ``wrap(method)`` in the place of a method that ``cls`` itself defines."""
        original = cls.__dict__[name]
        self._before.append((cls, name, original))
        setattr(cls, name, functools.wraps(original)(wrap(original)))

    @property
    def bus(self) -> crewbus.Bus:
        """Where an emission goes that is made here."""
        run = crewbus.current_run()
        return run.bus if run is not None else self._given or crewbus.current_bus()

    # Kickoffs

    def _in_run(self, kickoff: Any) -> Any:
        def in_run(entity: Any, *args: Any, **kwargs: Any) -> Any:
            with self.run_of(entity):
                return kickoff(entity, *args, **kwargs)

        async def in_run_async(entity: Any, *args: Any, **kwargs: Any) -> Any:
            with self.run_of(entity):
                return await kickoff(entity, *args, **kwargs)

        return in_run_async if inspect.iscoroutinefunction(kickoff) else in_run

    def run_of(self, entity: Any) -> AbstractContextManager[crewbus.Run | None]:
        """The run of a kickoff; None inside where there is to be none."""
        # With crewAI's own stream a kickoff only hands that out, and kicks off again when it is iterated.
        if getattr(entity, "stream", False) or isinstance(entity, BaseAgentExecutor):
            return nullcontext()
        return self.bus.run(getattr(entity, "name", None) or type(entity).__name__)

    # Events

    def _forwarding(self, prepare: Any) -> Any:
        def forward(events: CrewAIEventsBus, source: Any, event: BaseEvent) -> None:
            prepare(events, source, event)
            self.forward(source, event)

        return forward

    def forward(self, source: Any, event: BaseEvent) -> None:
        """Hand on what crewAI emits; a piece of an answer as a chunk too."""
        bus, chunk = self.bus, chunk_of(event)
        bus.emit(event, source=source)
        if chunk is not None and crewbus.current_run(bus) is not None:
            bus.emit(chunk, source=source)


def chunk_of(event: BaseEvent) -> crewbus.Chunk | None:
    """What a stream shows of ``event``; None for what is no piece of an answer."""
    if isinstance(event, LLMStreamChunkEvent):
        call = event.tool_call
        return crewbus.Chunk(event.chunk) if call is None else crewbus.Chunk(call.function.arguments, "tool_call")
    return crewbus.Chunk(event.chunk, "reasoning") if isinstance(event, LLMThinkingChunkEvent) else None


def unstructure(event: BaseEvent) -> Any:
    """``event`` as JSON holds it: live objects are left out, and what JSON can't hold is described by its ``repr``."""
    return event.model_dump(mode="json", exclude=set(ENTITIES), exclude_none=True, fallback=repr, serialize_as_any=True)


def structure(data: Any, cls: type[BaseEvent]) -> Any:
    """The event of which `unstructure` gave ``data``; what was left out is None. What even so is none stays unknown."""
    try:
        missing = {name: None for name, field in cls.model_fields.items() if name not in data and field.is_required()}
        if missing:  # of which crewAI's validators would not approve
            return cls.model_construct(**missing | data | dict(BaseEvent.model_validate(data)))
        return cls.model_validate(data)
    except Exception:
        return crewbus.UnknownEvent(f"{cls.__module__}.{cls.__qualname__}", 1, json.dumps(data))


def _telling(work: Any) -> Any:
    # crewAI catches an Exception here and nothing else: with `crewbus.Cancelled` the kickoff would wait for ever.
    def tell(task: Task, agent: Any, context: Any, tools: Any, future: Future[Any]) -> None:
        try:
            work(task, agent, context, tools, future)
        except BaseException as error:
            future.set_exception(error)

    return tell
