"""What travels with the flow of control: the run in scope, and the event loop a caller stands on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from crewbus._bus import Bus
    from crewbus._run import Run

scope: Final[ContextVar[Run | None]] = ContextVar("crewbus_scope", default=None)
"""The innermost run entered here, of whichever bus; it may have ended since."""


def current_run(bus: Bus | None = None) -> Run | None:
    """The innermost run in scope, of ``bus`` if one is named; None outside any. It may have ended."""
    run = scope.get()
    while run is not None and bus is not None and run.bus is not bus:
        run = run.outer
    return run


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Have ``loop`` make a call, from any thread; where it is closed, nobody is there any more whom it concerns."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None; asyncio is not loaded to find out."""
    events = sys.modules.get("asyncio.events")
    return events._get_running_loop() if events is not None else None


# The same without a bus to choose, at the speed of C: what a plugin may offer for the hot path.
current_run.direct = scope.get  # type: ignore[attr-defined]
