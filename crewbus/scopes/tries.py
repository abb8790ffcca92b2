"""Tries: which attempts belong together, so that a retry counts, and retracts what a cancelled attempt streamed."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import Any, Final

from crewbus.scopes.current import current_task
from crewbus.scopes.ports import AnyScope


class Tries:
    """The attempts at one piece of work, until one succeeds.

    The next attempt is the next one in the same context or in a copy of it. A retry may also run in a task or thread of
    its own, as with ``asyncio.wait_for``: then it is the next attempt at the same scope, once the task or thread of the
    last attempt has ended. Before that it is an attempt at other work, which is retried in parallel.
    """

    __slots__ = ("_cancelled", "_context", "_scope", "_succeeded", "_task", "number")

    def __init__(self, scope: AnyScope, context: InContext) -> None:
        self._scope = weakref.ref(scope)
        self._context = weakref.ref(context)
        """Dead once no context has the attempts as its own any more."""
        self._task: weakref.ref[Any] | None = None
        """The task in which the last attempt ended, if it was one."""
        self._cancelled: AnyScope | None = None
        """The last attempt if it was cancelled: its chunks are retracted only when another attempt follows."""
        self._succeeded = False
        self.number = 0
        """The number of the last attempt."""

    def is_at(self, scope: AnyScope) -> bool:
        """Whether these are attempts at ``scope`` that another one may follow."""
        return not self._succeeded and self._scope() is scope

    def is_over(self) -> bool:
        """Whether no attempt can follow."""
        scope = self._scope()
        return self._succeeded or scope is None or scope.ended

    def is_released(self) -> bool:
        """Whether the task or thread that tried last has ended, so that an attempt elsewhere may follow."""
        if self._context() is None:
            return True
        task = self._task() if self._task is not None else None
        return self._task is not None and (task is None or task.done())

    def next(self, number: int | None) -> tuple[int, AnyScope | None]:
        """The number of the next attempt, and the cancelled attempt that it follows; ``number``: as it was chosen."""
        self.number = number or self.number + 1
        cancelled, self._cancelled = self._cancelled, None
        return self.number, cancelled if self.number > 1 else None

    def failed(self, scope: AnyScope, cancelled: AnyScope | None) -> None:
        """Note that the last attempt failed, or was ``cancelled``."""
        task = current_task()
        self._task = weakref.ref(task) if task is not None else None
        self._cancelled = cancelled
        if not scope.ended:
            scope.tries = (*(other for other in scope.tries if other is not self), self)

    def succeeded(self, scope: AnyScope) -> None:
        """Note that an attempt succeeded."""
        self._succeeded = True
        scope.tries = tuple(other for other in scope.tries if other is not self)

    def adopt(self, context: InContext) -> None:
        """Belong to another context from now on."""
        self._context, self._task = weakref.ref(context), None


class InContext:
    """What the contexts hold that have tries as their own."""

    __slots__ = ("__weakref__", "tries")

    tries: Tries


_in_context: Final[ContextVar[tuple[InContext, ...]]] = ContextVar("crewbus_tries", default=())


def tries_at(scope: AnyScope) -> Tries:
    """The tries that an attempt at ``scope`` belongs to here, or new ones."""
    here = tuple(mine for mine in _in_context.get() if not mine.tries.is_over())
    for mine in here:
        if mine.tries.is_at(scope):
            return mine.tries
    mine = InContext()
    released = next((tries for tries in reversed(scope.tries) if tries.is_released()), None)
    if released is not None:
        released.adopt(mine)
    mine.tries = released or Tries(scope, mine)
    _in_context.set((*here, mine))
    return mine.tries
