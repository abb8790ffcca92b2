"""A pool whose work sees the ContextVars of whoever submits it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from contextvars import Context, copy_context
from typing import Any, TypeVar

__all__ = ["ThreadPoolExecutor"]

T = TypeVar("T")


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
