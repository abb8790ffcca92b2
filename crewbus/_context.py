"""What travels with the flow of control: the run in scope, and the event loop a caller stands on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from crewbus._bus import Bus
    from crewbus._call import Call
    from crewbus._run import Run
    from crewbus._scope import Scope
    from crewbus._tasks import Owed

scope: Final[ContextVar[Scope | None]] = ContextVar("crewbus_scope", default=None)
"""What was entered last here, of whichever bus: a run, a call or an attempt; it may have ended since."""

handling: Final[ContextVar[Owed | None]] = ContextVar("crewbus_handling", default=None)
"""The delivery to an async or background handler that this context belongs to, if any."""


def current_run(bus: Bus | None = None) -> Run | None:
    """The innermost run in scope, of ``bus`` if one is named; None outside any. It may have ended."""
    here = scope.get()
    while here is not None:
        if bus is None or here.bus is bus:
            run = here.run
            if run is not None:
                return run
        here = here.outer
    return None


def current_call(bus: Bus | None = None) -> Call | None:
    """The call that an emission here belongs to, of ``bus`` if one is named; None outside any. It may have ended."""
    here = scope.get()
    while here is not None and bus is not None and here.bus is not bus:
        here = here.outer
    return here.call if here is not None else None


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Have ``loop`` make a call, from any thread; where it is closed, nobody is there any more whom it concerns."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


def settle(future: asyncio.Future[None]) -> None:
    """Let ``future`` be done, unless it is; called on its loop."""
    if not future.done():
        future.set_result(None)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None; asyncio is not loaded to find out."""
    events = sys.modules.get("asyncio.events")
    return events._get_running_loop() if events is not None else None


def strand() -> int:
    """What tells this thread, or the task that runs in it, from all others that live."""
    loop = running_loop()
    task = sys.modules["asyncio"].current_task(loop) if loop is not None else None
    return threading.get_ident() if task is None else id(task)


# The same without a bus to choose, at the speed of C: what a plugin may offer for the hot path.
current_run.direct = scope.get  # type: ignore[attr-defined]
