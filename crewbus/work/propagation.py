"""Context propagation: functions, threads and pools that see their caller's ContextVars.

The work runs in a copy of the context, so what it sets does not leak back.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent import futures
from contextvars import Context, copy_context
from typing import Any, ParamSpec, TypeVar, cast

from crewbus._util import is_async
from crewbus.scopes import handling

__all__ = ["Thread", "ThreadPoolExecutor", "bind"]

P = ParamSpec("P")
T = TypeVar("T")


def bind(function: Callable[P, T]) -> Callable[P, T]:
    """``function``, bound to the current context: each call runs in a new copy of it.

    Use it for functions that are called elsewhere: callbacks of a library, ``loop.run_in_executor``, foreign
    threads. Calls may overlap. An ``async def`` stays one, and runs as a task of its own.

    >>> import crewbus
    >>> with crewbus.Bus(entry_points=False) as bus, bus.run("here"):
    ...     where = bind(lambda: crewbus.current_run().name)
    >>> where()
    'here'
    """
    here = copy_context()
    if is_async(function):
        return cast("Callable[P, T]", _bind_async(function, here))

    @functools.wraps(function)
    def bound(*args: P.args, **kwargs: P.kwargs) -> T:
        return here.copy().run(function, *args, **kwargs)

    return bound


def _bind_async(function: Callable[..., Any], here: Context) -> Callable[..., Any]:
    import asyncio  # loaded at first use

    @functools.wraps(function)
    async def bound(*args: Any, **kwargs: Any) -> Any:
        context = here.copy()
        # Whether a handler calls it depends on the call, not on the binding, and `aflush` must know.
        context.run(handling.set, handling.get())
        # In a task of its own, since a task has one context.
        return await asyncio.create_task(function(*args, **kwargs), context=context)

    return bound


class Thread(threading.Thread):
    """A thread that runs in a copy of the context in which `start` is called."""

    def start(self) -> None:
        """Start the thread in a copy of the current context."""
        context, run = copy_context(), self.run

        def run_in_context() -> None:
            # The attribute forms a reference cycle with this thread and its context.
            del self.run
            context.run(run)

        self.run = run_in_context  # type: ignore[method-assign]
        super().start()


class ThreadPoolExecutor(futures.ThreadPoolExecutor):
    """A pool whose work runs in a copy of the context in which it is submitted; ``map`` likewise.

    The threads themselves have an empty context: work that reaches them in other ways finds no run.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> futures.Future[T]:
        """Schedule ``fn(*args, **kwargs)`` in a copy of the caller's context."""
        context = copy_context()
        # Threads of free-threaded builds inherit the context in which they are started.
        submit = super().submit
        return Context().run(lambda: submit(context.run, fn, *args, **kwargs))
