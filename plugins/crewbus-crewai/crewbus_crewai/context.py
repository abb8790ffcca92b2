"""Context variables that are set for a while, and the live run in scope."""

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
    """Set ``var`` to ``value`` inside the ``with``."""
    token = var.set(value)
    try:
        yield
    finally:
        with suppress(ValueError):  # an abandoned coroutine may be closed in another context
            var.reset(token)


def live_run(bus: Bus) -> Run | None:
    """The innermost run in scope that has not ended; crewAI's background work may outlast its run."""
    run = crewbus.current_run(bus)
    while run is not None and run.ended:
        run = run.parent
    return run
