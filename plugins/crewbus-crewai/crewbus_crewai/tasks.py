"""Tasks: what an agent does for one is an attempt, which is taken back when the agent tries again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Final

from crewbus import Attempt
from crewbus_crewai.context import held, live_run
from crewbus_crewai.integration import contained, integration

_attempt: Final[ContextVar[Attempt | None]] = ContextVar("crewbus_crewai_attempt", default=None)
"""The attempt that an agent makes here."""


def executed(stock: Any, agent: Any, *args: Any, **kwargs: Any) -> Any:
    """Have an agent do a task, as an attempt."""
    with _an_attempt():
        return stock(agent, *args, **kwargs)


async def executed_async(stock: Any, agent: Any, *args: Any, **kwargs: Any) -> Any:
    """As `executed`."""
    with _an_attempt():
        return await stock(agent, *args, **kwargs)


@contextmanager
def _an_attempt() -> Iterator[None]:
    bus = integration.bus_in_scope()
    run = live_run(bus) if bus is not None else None
    with ExitStack() as stack:
        if run is not None:
            with contained("telling of an attempt"):
                attempt = stack.enter_context(run.attempt())
                stack.enter_context(held(_attempt, attempt))
        yield


def failing(stock: Any, agent: Any, error: Exception, *args: Any, **kwargs: Any) -> Any:
    """See whether a failed attempt is made again, which the agent does from inside the one that failed."""
    attempt = _attempt.get()
    if attempt is not None:
        with contained("telling of a failed attempt"):
            attempt.fail(error)
    return stock(agent, error, *args, **kwargs)


def executed_in_thread(stock: Any, task: Any, agent: Any, context: Any, tools: Any, future: Future[Any]) -> None:
    """Do a task in a thread, and tell whoever waits also of what is no Exception."""
    try:
        stock(task, agent, context, tools, future)
    except BaseException as error:
        future.set_exception(error)
