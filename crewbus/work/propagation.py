"""Context that follows the work: functions, threads and pools that see their caller's ContextVars.

What the work sets in turn stays with it: it runs in a copy.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent import futures
from contextvars import Context, copy_context
from typing import Any, ParamSpec, TypeVar, cast

from crewbus._util.callables import is_async
from crewbus.scopes.current import handling

__all__ = ["Thread", "ThreadPoolExecutor", "bind"]

P = ParamSpec("P")
T = TypeVar("T")


def bind(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` as it would run here: each call sees a fresh copy of the context in which it was bound.

    For what is called elsewhere: callbacks of a library, ``loop.run_in_executor``, foreign threads. Calls
    may overlap. An ``async def`` stays one, and runs as a task of its own.

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
        # Whether it is called by a handler is a matter of the call, and an `aflush` in it must know.
        context.run(handling.set, handling.get())
        # In its own task, since a context belongs to a task as a whole.
        return await asyncio.create_task(function(*args, **kwargs), context=context)

    return bound


class Thread(threading.Thread):
    """A thread that sees the context of whoever calls `start`, as it was then."""

    def start(self) -> None:
        """Start the thread in a copy of the caller's context."""
        context, run = copy_context(), self.run

        def run_in_context() -> None:
            # The attribute held this thread and its context in a circle.
            del self.run
            context.run(run)

        self.run = run_in_context  # type: ignore[method-assign]
        super().start()


class ThreadPoolExecutor(futures.ThreadPoolExecutor):
    """A pool whose work sees the context of whoever submits it, as it was then; ``map`` likewise.

    Its threads themselves belong to no context: what reaches them by other ways finds no run.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> futures.Future[T]:
        """Schedule ``fn(*args, **kwargs)`` in a copy of the caller's context."""
        context = copy_context()
        # A thread that the pool starts for this must not inherit the caller's context, as some builds would have it.
        submit = super().submit
        return Context().run(lambda: submit(context.run, fn, *args, **kwargs))
