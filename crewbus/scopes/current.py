"""What is current in a context: the scope that was entered last, and the delivery that runs there."""

from __future__ import annotations

import sys
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from crewbus._util import running_loop
from crewbus.scopes.thread_state import threads

if TYPE_CHECKING:
    import asyncio

scope_var: Final[ContextVar[Any]] = ContextVar("crewbus_scope", default=None)
"""The `Scope` that was entered last in this context, of whichever bus, or None. It may have ended: see `innermost`."""

handling: Final[ContextVar[Any]] = ContextVar("crewbus_handling", default=None)
"""The delivery to an async or background handler that this context belongs to, or None."""

working: Final[ContextVar[Any]] = ContextVar("crewbus_working", default=None)
"""The `Place` of the work that a bus owns and that this context belongs to, or None. It may be over."""


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


def execution_id() -> object:
    """What identifies this thread, or the task that runs in it, for as long as anybody holds it."""
    task = current_task()
    if task is None:
        return threads.state
    reference = weakref.ref(task)  # always the same object, and equal to itself when the task is gone
    hash(reference)  # which it keeps: it has none of its own once the task is gone
    return reference


def current_task() -> asyncio.Task[Any] | None:
    """The asyncio task that runs in this thread, or None."""
    loop = running_loop()
    return sys.modules["asyncio"].current_task(loop) if loop is not None else None
