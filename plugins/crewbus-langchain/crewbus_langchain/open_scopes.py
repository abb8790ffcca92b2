"""Open scopes: for each run of langchain's in progress, by its id, the crewbus run or call that stands for it.

A handler learns of a run by ids, in whatever context: a stream's events come in its consumer's. So each open scope has
a context of its own, in which it was entered and what happens in it is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from crewbus import Bus, Scope

S = TypeVar("S", bound=Scope)
T = TypeVar("T")

_ABSENT: Final = object()


class OpenScope(Generic[S]):
    """A crewbus run or call, from the start of langchain's run to its end.

    ``around`` is the open scope of the run that langchain says it is part of; None: what is current here. Raises what
    entering the scope does.
    """

    __slots__ = ("_changes", "_context", "bus", "namespace", "scope", "takes_tokens")

    def __init__(self, bus: Bus, scope: S, around: OpenScope[Any] | None) -> None:
        self.bus = bus
        self.scope: S = scope
        self.namespace: str | None = around.namespace if around is not None else None
        """What identifies the execution of the graph's node that it is or is in."""
        self.takes_tokens: bool | None = None
        """Whether its chunks come as tokens, or else as events of langchain's protocol; None: none has come yet."""
        before = copy_context()
        self._context = before.copy()
        if around is not None:
            self._context.run(around._be_current)
        self._context.run(scope.__enter__)
        self._context.run(_current.set, self)
        self._changes = [(var, value) for var, value in self._context.items() if before.get(var, _ABSENT) is not value]

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call ``function`` where this is current."""
        return self._context.copy().run(function, *args)

    def _be_current(self) -> None:
        """Make it current in this context, unless this is the context of code that runs in it."""
        if _current.get() is not self:
            for var, value in self._changes:
                var.set(value)

    enter_forever = _be_current

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it current inside the ``with``: the same context is used at the end."""
        tokens = [(var, var.set(value)) for var, value in self._changes]
        try:
            yield
        finally:
            for var, token in reversed(tokens):
                with suppress(ValueError):  # an abandoned coroutine may be closed in another context
                    var.reset(token)

    def close(self, error: BaseException | None = None) -> None:
        """Leave the scope with ``error``, or None. Raises what leaving its ``with`` block does."""
        context, self._context = self._context, Context()
        self._changes = []
        context.run(self.scope.__exit__, type(error) if error is not None else None, error, None)


_current: Final[ContextVar[OpenScope[Any] | None]] = ContextVar("crewbus_langchain_scope", default=None)
"""The open scope whose code runs in this context. It may have been closed."""


def current_open_scope() -> OpenScope[Any] | None:
    """The open scope whose code runs in this context, if it is still open."""
    here = _current.get()
    return here if here is not None and not here.scope.ended else None


class OpenScopes:
    """The open scopes by the ids of langchain's runs. A run that is not reported stands for the one around it."""

    def __init__(self) -> None:
        self._open: dict[UUID, tuple[OpenScope[Any], bool]] = {}

    def get(self, run_id: UUID | None) -> OpenScope[Any] | None:
        """The open scope that a run belongs to; None if there is none."""
        found = self._open.get(run_id) if run_id is not None else None
        return found[0] if found is not None else None

    def of(self, config: Mapping[str, Any]) -> OpenScope[Any] | None:
        """The open scope that what langchain calls with this config belongs to; None if there is none."""
        return self.get(getattr(config.get("callbacks"), "parent_run_id", None))

    def own(self, run_id: UUID) -> OpenScope[Any] | None:
        """The open scope of a run itself; None if it is not reported."""
        scope, is_own = self._open.get(run_id, (None, False))
        return scope if is_own else None

    def __contains__(self, run_id: UUID) -> bool:
        return run_id in self._open

    def add(self, run_id: UUID, scope: OpenScope[Any], *, own: bool = True) -> None:
        """Add what a run has; ``own``: its own scope, and not that of the run around it."""
        self._open[run_id] = scope, own

    def pop(self, run_id: UUID) -> OpenScope[Any] | None:
        """Remove a run; returns its own open scope, if it has one."""
        scope, own = self._open.pop(run_id, (None, False))
        return scope if own else None

    def __len__(self) -> int:
        return len(self._open)


open_scopes: Final = OpenScopes()
