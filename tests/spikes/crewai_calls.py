"""crewAI's model calls as calls of crewbus, and the retries of its agents as attempts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from crewai import Agent
from crewai.events.base_events import BaseEvent
from crewai.events.types.llm_events import LLMCallCompletedEvent, LLMCallFailedEvent, LLMCallStartedEvent, LLMEventBase
from spikes.crewai_adapter import Adapter, chunk_of

import crewbus

_attempt: ContextVar[crewbus.Attempt | None] = ContextVar("spike_attempt", default=None)
"""The attempt that an agent makes here."""


class CallingAdapter(Adapter):
    """The adapter, with calls and attempts."""

    def __init__(self, bus: crewbus.Bus | None = None) -> None:
        super().__init__(bus)
        self._calls: dict[str, crewbus.Call] = {}

    def install(self) -> None:
        """Change crewAI's classes, the one of agents too."""
        super().install()
        self.change(Agent, "execute_task", _in_attempt)
        self.change(Agent, "_check_execution_error", _failing)

    @contextmanager
    def run_of(self, entity: Any) -> Iterator[crewbus.Run | None]:
        """The run of a kickoff; with it end the calls of which crewAI did not say how they ended."""
        with super().run_of(entity) as run:
            try:
                yield run
            finally:
                for call_id, call in list(self._calls.items()):
                    if run is not None and call.run is run:
                        del self._calls[call_id]
                        call.fail(crewbus.Cancelled("its kickoff ended"))

    def forward(self, source: Any, event: BaseEvent) -> None:
        """Hand on what crewAI emits: what belongs to a model call, in that call."""
        if not isinstance(event, LLMEventBase):
            super().forward(source, event)
            return
        if isinstance(event, LLMCallStartedEvent):
            call = self._calls[event.call_id] = self.bus.call(event.model or "model", inherit=True, source=source)
            call.start()
        call = self._calls[event.call_id]
        call.emit(event, source)
        chunk = chunk_of(event)
        if chunk is not None:
            call.emit(chunk, source)
        if isinstance(event, LLMCallCompletedEvent):
            usage = {name: count for name, count in (event.usage or {}).items() if isinstance(count, int)}
            self._calls.pop(event.call_id).finish(event.response, usage)
        elif isinstance(event, LLMCallFailedEvent):
            self._calls.pop(event.call_id).fail(event.error)


def _in_attempt(execute: Any) -> Any:
    def in_attempt(agent: Agent, *args: Any, **kwargs: Any) -> Any:
        run = crewbus.current_run()
        if run is None:
            return execute(agent, *args, **kwargs)
        with run.attempt() as attempt:
            token = _attempt.set(attempt)
            try:
                return execute(agent, *args, **kwargs)
            finally:
                _attempt.reset(token)

    return in_attempt


def _failing(check: Any) -> Any:
    # The agent calls this when an attempt failed, and from inside it begins the next one.
    def fail(agent: Agent, error: Exception, task: Any) -> Any:
        attempt = _attempt.get()
        if attempt is not None:
            attempt.fail(error)
        return check(agent, error, task)

    return fail
