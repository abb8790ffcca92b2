"""Context propagation: functions and threads that see their caller's ContextVars.

The work runs in a copy of the context, so what it sets does not leak back.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import ParamSpec, TypeVar

from crewbus.exceptions import Cancelled, Suspended, is_cancellation
from crewbus.scopes import handling
from crewbus.work.private_context import STEPPED, kind_of, kind_of_result

__all__ = ["Thread", "bind"]

P = ParamSpec("P")
T = TypeVar("T")


def bind(function: Callable[P, T]) -> Callable[P, T]:
    """``function``, bound to the current context: each call runs in a new copy of it.

    Use it for functions that are called elsewhere: callbacks of a library, ``loop.run_in_executor``, foreign threads.
    Calls may overlap. What the call returns decides: a coroutine, a generator or an async generator runs in that one
    copy from its first step to its last, whatever advances it, so that it keeps its runs to itself and the caller's
    context as it is. The function stays of its kind.

    >>> import crewbus
    >>> with crewbus.Bus(entry_points=False) as bus, bus.run("here"):
    ...     where = bind(lambda: crewbus.current_run().name)
    >>> where()
    'here'
    """
    here = copy_context()
    handled_here = here.get(handling)

    def new_context() -> Context:
        context = here.copy()
        # Whether a handler calls it depends on the call, not on the binding, and `flush` must know.
        handled = handling.get()
        if handled is not handled_here:
            context.run(handling.set, handled)
        return context

    def begin(*args: P.args, **kwargs: P.kwargs) -> tuple[Context, T]:
        context = new_context()
        return context, context.run(function, *args, **kwargs)

    kind = kind_of(function)
    if kind is not None:
        return functools.wraps(function)(kind.bind(begin))

    @functools.wraps(function)
    def bound(*args: P.args, **kwargs: P.kwargs) -> T:
        context = new_context()
        result = context.run(function, *args, **kwargs)
        if isinstance(result, STEPPED):
            return kind_of_result(result).bind(lambda: (context, result))()  # type: ignore[no-any-return]
        return result

    return bound


class Thread(threading.Thread):
    """A thread that runs in a copy of the context in which `start` is called. `Cancelled` or `Suspended` ends it
    silently."""

    def start(self) -> None:
        """Start the thread in a copy of the current context."""
        context, run = copy_context(), self.run

        def run_in_context() -> None:
            # The attribute forms a reference cycle with this thread and its context.
            del self.run
            try:
                context.run(run)
            except (Cancelled, Suspended) as error:
                if not is_cancellation(error):
                    raise

        self.run = run_in_context  # type: ignore[method-assign]
        super().start()
