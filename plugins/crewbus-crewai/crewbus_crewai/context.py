"""The context: the run in scope, and variables that are held for as long as something is under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

import crewbus
from crewbus import Bus, Run

T = TypeVar("T")


@contextmanager
def held(var: ContextVar[T], value: T) -> Iterator[None]:
    """Give ``var`` another value, until the ``with`` is left."""
    token = var.set(value)
    try:
        yield
    finally:
        with suppress(ValueError):  # a coroutine that is thrown away may be closed in another context
            var.reset(token)


def live_run(bus: Bus) -> Run | None:
    """The innermost run in scope that goes on: what crewAI does behind a run's back may outlast it."""
    run = crewbus.current_run(bus)
    while run is not None and run.ended:
        run = run.parent
    return run
