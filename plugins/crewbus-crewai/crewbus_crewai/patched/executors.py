"""Executors: each execution of a task has one of its own, so that an agent can execute several tasks at once.

crewAI keeps one executor for each agent: it changes the one that runs, and then refuses to run it twice (crewAI#7332).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import wrapt

from crewbus import reentrant_lock
from crewbus_crewai.context import held
from crewbus_crewai.patch_set import bound_to


class _Execution:
    """An agent's execution of a task, with the executor that was made for it."""

    __slots__ = ("agent", "executor")

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.executor: Any = None


_current: Final[ContextVar[_Execution | None]] = ContextVar("crewbus_crewai_execution", default=None)
_lock: Final = reentrant_lock()
_used: Final[dict[int, Any]] = {}
"""The executors of the executions in progress, by their ids."""


@contextmanager
def own_executor(agent: Any) -> Iterator[None]:
    """Execute a task of ``agent`` in the ``with``; when crewAI tries again inside, that is the same execution."""
    outer = _execution_of(agent)
    if outer is not None and not getattr(outer.executor, "_is_executing", False):
        yield
        return
    execution = _Execution(agent)
    try:
        with held(_current, execution):
            yield
    finally:
        with _lock:
            _used.pop(id(execution.executor), None)


def _execution_of(agent: Any) -> _Execution | None:
    """The execution in this context, if it is one of ``agent``."""
    execution = _current.get()
    return execution if execution is not None and execution.agent is agent else None


def create(wrapped: Any, agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Set the agent's executor: that of this execution, or else one that no execution uses."""
    execution = _execution_of(agent)
    with _lock:
        if execution is not None and execution.executor is not None:
            agent.agent_executor = execution.executor
        elif id(agent.agent_executor) in _used:
            agent.agent_executor = None
        wrapped(*args, **kwargs)
        if execution is not None:
            execution.executor = agent.agent_executor
            _used[id(execution.executor)] = execution.executor


def execute(wrapped: Any, agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the executor of this execution, whichever the agent has by now."""
    execution = _execution_of(agent)
    if execution is not None and execution.executor is not None:
        wrapped = bound_to(wrapped, _WithExecutor(agent, execution.executor))
    return wrapped(*args, **kwargs)


class _WithExecutor(wrapt.ObjectProxy):  # type: ignore[type-arg]  # wrapt 1 has no generic proxy
    """An agent with another executor."""

    def __init__(self, agent: Any, executor: Any) -> None:
        super().__init__(agent)
        self._self_executor = executor

    @property
    def agent_executor(self) -> Any:
        return self._self_executor
