"""Leaving a scope in spite of an interrupt: one that comes as a ``with`` block is being left must not keep it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import MethodType, TracebackType
from typing import Any, Protocol, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class Entered(Protocol):
    """What has a ``with`` block."""

    def is_entered(self) -> bool:
        """Whether the block has begun, and ``__exit__`` is not done."""


def leaves(function: F) -> F:
    """Decorate an ``__exit__`` or ``__aexit__`` that is made good if an interrupt cuts it short.

    Python may raise an interrupt as the call of ``__exit__`` begins, before its first line. So the ``with`` block gets
    an object to call, and as the block drops that object, it calls the function again with the interrupt, if the first
    call has not reached its end. The function does only what is left to do.
    """
    return cast(F, _Exit(function))


class Nothing:
    """An awaitable for what is done already."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


class _Exit:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, scope: Any, owner: type) -> Callable[..., Any]:
        if scope is None:
            return self._function
        if scope.is_entered():  # a call of it as a method: a `with` block asks before it enters
            return MethodType(self._function, scope)
        return _Leaving(self._function, scope)


class _Leaving:
    """What a ``with`` block calls at its end. It does not outlive the block."""

    _scope: Entered | None = None

    def __init__(self, function: Callable[..., Any], scope: Entered) -> None:
        self._function = function
        self._scope = scope

    def __call__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        return self._function(self._scope, kind, error, trace)

    def __del__(self) -> None:
        if self._scope is not None and self._scope.is_entered():
            error = KeyboardInterrupt("an interrupt came as it was left")
            self._function(self._scope, type(error), error, None)
