"""What is current in a context: the scope that was entered last, and the delivery that runs there."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from typing import Any, Final

from crewbus._util import running_loop

scope_var: Final[ContextVar[Any]] = ContextVar("crewbus_scope", default=None)
"""The `Scope` that was entered last in this context, of whichever bus, or None. It may have ended: see `innermost`."""

handling: Final[ContextVar[Any]] = ContextVar("crewbus_handling", default=None)
"""The delivery to an async or background handler that this context belongs to, or None."""


def innermost() -> Any:
    """The scope that is current in this context, of whichever bus, or None. It may have ended."""
    here = scope_var.get()
    if here is not None and here.found_by is None:
        while here is not None and here.found_by is None:
            here = here.outer
        scope_var.set(here)  # so that the next look-up is quick, and the scope that was left is released
    return here


def nearest(bus: object, here: Any) -> Any:
    """``here``, or the nearest scope around it, that the emissions of ``bus`` find."""
    while here is not None and here.found_by is not bus:
        here = here.outer
    return here


def enclosing() -> Any:
    """The innermost current scope in which anything can still happen: what a new scope keeps alive, and finds."""
    here = innermost()
    while here is not None and (here.found_by is None or here.is_over()):
        here = here.outer
    return here


def execution_id() -> int:
    """What distinguishes this thread, or the task that runs in it, from all others that are alive."""
    task = current_task()
    return threading.get_ident() if task is None else id(task)


def current_task() -> Any:
    """The asyncio task that runs in this thread, or None."""
    loop = running_loop()
    return sys.modules["asyncio"].current_task(loop) if loop is not None else None
