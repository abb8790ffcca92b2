"""Callbacks: handlers that belong to one call, or to all the calls that start in a context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from crewbus._util import is_same
from crewbus.exceptions import CallbackError
from crewbus.scopes.leaving import Nothing, leaves

if TYPE_CHECKING:
    from crewbus.events import Envelope
    from crewbus.scopes.ports import Host

__all__ = ["Callbacks"]

Function = Callable[["Envelope"], Any]


class Callback:
    """A callback as it was given, and the function that is called for it."""

    __slots__ = ("bus", "call", "given", "home", "name")

    def __init__(self, bus: object, given: Any, name: str, call: Function, home: Any) -> None:
        self.bus = bus
        self.given = given
        self.name = name
        self.call = call
        self.home = home
        """The event loop on which it was given, for what it returns to be awaited."""


class _Given:
    """The callbacks of one ``with`` block. Contexts that were copied in the block hold them after its end.

    If it ended in another context, none are left: the one in which it began can't be reset, and must not keep them.
    """

    __slots__ = ("callbacks", "left")

    def __init__(self, callbacks: tuple[Callback, ...]) -> None:
        self.callbacks = callbacks
        self.left = False
        """Whether the block has ended."""

    def is_repeated_in(self, given: tuple[Any, ...]) -> bool:
        """Whether all its callbacks are given again."""
        return all(any(is_same(callback.given, again) for again in given) for callback in self.callbacks)


_in_context: Final[ContextVar[tuple[_Given, ...]]] = ContextVar("crewbus_callbacks", default=())
"""The callbacks for the calls that start in a context, of whichever bus. A tuple: adding makes another."""


def callbacks_in_context(bus: object = None) -> tuple[Callback, ...]:
    """The callbacks for the calls that start in this context; with ``bus``, only those of that bus."""
    found = (callback for given in _in_context.get() for callback in given.callbacks)
    return without_repeats(callback for callback in found if bus is None or callback.bus is bus)


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
        self._entered: tuple[_Given, Token[tuple[_Given, ...]]] | None = None

    def add(self, callback: Function) -> None:
        """Add a callback unchanged: for plugins, within `crewbus_callback_register`."""
        self._callbacks += (self.host.as_callback(callback),)

    def __enter__(self) -> Self:
        if self._entered is not None:
            raise CallbackError("these callbacks are in use already: call bus.callbacks() for each 'with'")
        # A plugin may have a callback keep this context: a chain of work that gives the same ones again must not grow.
        before = _in_context.get()
        around = tuple(other for other in before if not (other.left and other.is_repeated_in(self._given)))
        if len(around) < len(before):
            _in_context.set(around)
        self._callbacks = ()
        for given in self._given:
            taken = self.host.register_callback(self, given)  # which may add others
            self._callbacks += (taken,)
        mine, self._callbacks = _Given(self._callbacks), ()
        token = _in_context.set(around)
        self._entered = mine, token
        _in_context.set((*around, mine))
        return self

    def is_entered(self) -> bool:
        """Whether its ``with`` block has begun and was not left."""
        return self._entered is not None

    @leaves
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered is None:
            return
        mine, token = self._entered
        mine.left = True
        rest = tuple(other for other in _in_context.get() if other is not mine and other.callbacks)
        try:
            _in_context.reset(token)
        except ValueError:  # another context, as with a generator that is closed elsewhere
            mine.callbacks = ()
        except RuntimeError:  # an interrupt came after it was reset
            pass
        finally:
            _in_context.set(rest)
        self._entered = None

    async def __aenter__(self) -> Self:
        return self.__enter__()

    @leaves
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        self.__exit__(kind, error, trace)
        return Nothing()
