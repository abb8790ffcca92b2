"""What travels with the flow of control: the run in scope, and the event loop a caller stands on."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from crewbus._util.loops import running_loop

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus
    from crewbus.dispatch.async_handlers import PendingDelivery
    from crewbus.scopes.call import Call
    from crewbus.scopes.run import Run
    from crewbus.scopes.scope import Scope

scope: Final[ContextVar[Scope | None]] = ContextVar("crewbus_scope", default=None)
"""What was entered last here, of whichever bus: a run, a call or an attempt; it may have ended since."""

handling: Final[ContextVar[PendingDelivery | None]] = ContextVar("crewbus_handling", default=None)
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


def strand() -> int:
    """What tells this thread, or the task that runs in it, from all others that live."""
    loop = running_loop()
    task = sys.modules["asyncio"].current_task(loop) if loop is not None else None
    return threading.get_ident() if task is None else id(task)


# The same without a bus to choose, at the speed of C: what a plugin may offer for the hot path.
current_run.direct = scope.get  # type: ignore[attr-defined]
