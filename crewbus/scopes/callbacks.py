"""Callbacks: handlers that belong to one call, or to all the calls that start in a context."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from crewbus._util import is_same
from crewbus.exceptions import CallbackError

if TYPE_CHECKING:
    from crewbus.events import Envelope
    from crewbus.scopes.ports import Host

__all__ = ["Callbacks"]

Function = Callable[["Envelope"], Any]


@attrs.frozen(eq=False)
class Callback:
    """A callback as it was given, and the function that is called for it."""

    bus: Any
    given: Any
    name: str
    call: Function
    home: Any
    """The event loop on which it was given, for what it returns to be awaited."""


_in_context: Final[ContextVar[tuple[Callback, ...]]] = ContextVar("crewbus_callbacks", default=())
"""The callbacks for the calls that start in a context, of whichever bus. A tuple: adding makes another."""


def callbacks_in_context(bus: object = None) -> tuple[Callback, ...]:
    """The callbacks for the calls that start in this context; with ``bus``, only those of that bus."""
    return tuple(callback for callback in _in_context.get() if bus is None or callback.bus is bus)


def without_repeats(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """``callbacks`` in order, each once."""
    found: list[Callback] = []
    for callback in callbacks:
        if not any(callback.bus is known.bus and is_same(callback.given, known.given) for known in found):
            found.append(callback)
    return tuple(found)


class Callbacks:
    """Callbacks for all calls that start in the context of its ``with`` block: what `Bus.callbacks` returns.

    Those of an enclosing ``with`` block are called too, before these.
    """

    def __init__(self, host: Host, given: tuple[Any, ...]) -> None:
        self.host = host
        self.bus = host.bus
        self._given = given
        self._callbacks: tuple[Callback, ...] = ()
        self._token: Token[tuple[Callback, ...]] | None = None

    def add(self, callback: Function) -> None:
        """Add a callback unchanged: for plugins, within `crewbus_callback_register`."""
        self._callbacks += (self.host.as_callback(callback),)

    def __enter__(self) -> Self:
        if self._token is not None:
            raise CallbackError("these callbacks are in use already: call bus.callbacks() for each 'with'")
        self._callbacks = ()
        for given in self._given:
            taken = self.host.register_callback(self, given)  # which may add others
            self._callbacks += (taken,)
        self._token = _in_context.set(without_repeats((*_in_context.get(), *self._callbacks)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        mine, self._callbacks = self._callbacks, ()
        if token is None:
            return
        try:
            _in_context.reset(token)
        except ValueError:  # left in another context, as async generators may be
            _in_context.set(tuple(callback for callback in _in_context.get() if callback not in mine))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
