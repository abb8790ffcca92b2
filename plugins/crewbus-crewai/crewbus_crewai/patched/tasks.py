"""Tasks: an agent's try at a task is an attempt, which is retracted when the agent tries again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Final

from crewbus import Attempt
from crewbus_crewai.context import held, live_run
from crewbus_crewai.integration import contained, integration
from crewbus_crewai.patched.executors import own_executor

current_task: Final[ContextVar[Any]] = ContextVar("crewbus_crewai_task", default=None)
"""The task that an agent executes in this context."""

_attempt: Final[ContextVar[Attempt | None]] = ContextVar("crewbus_crewai_attempt", default=None)
"""The attempt in this context."""


def execute(wrapped: Any, agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Execute a task as an attempt."""
    with held(current_task, args[0] if args else kwargs["task"]), own_executor(agent), _an_attempt():
        return wrapped(*args, **kwargs)


async def execute_async(wrapped: Any, agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `execute`."""
    with held(current_task, args[0] if args else kwargs["task"]), own_executor(agent), _an_attempt():
        return await wrapped(*args, **kwargs)


@contextmanager
def _an_attempt() -> Iterator[None]:
    bus = integration.bus_in_scope()
    run = live_run(bus) if bus is not None else None
    with ExitStack() as stack:
        if run is not None:
            with contained("reporting an attempt"):
                attempt = stack.enter_context(run.attempt())
                stack.enter_context(held(_attempt, attempt))
        yield


def check_error(wrapped: Any, agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """End a failed attempt, before the agent decides to try again inside it."""
    attempt = _attempt.get()
    if attempt is not None:
        with contained("reporting a failed attempt"):
            attempt.fail(args[0] if args else kwargs["e"])
    return wrapped(*args, **kwargs)


def execute_in_thread(wrapped: Any, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Execute a task in a thread, and pass a BaseException on to the future, too."""
    try:
        wrapped(*args, **kwargs)
    except BaseException as error:
        future: Future[Any] = kwargs["future"] if "future" in kwargs else args[3]
        future.set_exception(error)
