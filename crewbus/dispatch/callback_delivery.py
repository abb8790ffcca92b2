"""Callbacks as the plugins want them called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs

from crewbus._util import is_async, name_of
from crewbus.exceptions import CallbackError
from crewbus.scopes import Callback, Callbacks, Function

if TYPE_CHECKING:
    from crewbus.dispatch.async_handlers import AsyncHandlers
    from crewbus.events import Envelope
    from crewbus.plugins import PluginManager
    from crewbus.scopes import Call


class CallbackRegistration:
    """Makes a `Callback` of what is given to a call or to `Bus.callbacks`."""

    def __init__(self, bus: Any, plugins: PluginManager, async_handlers: AsyncHandlers) -> None:
        self._bus = bus
        self._plugins = plugins
        self._async_handlers = async_handlers

    def register(self, scope: Call | Callbacks, given: Any) -> Callback:
        """``given`` as the plugins want it called. Raises `CallbackError`, and what a plugin raises as a veto."""
        if isinstance(given, list | tuple | set):
            raise CallbackError(f"callbacks are given one by one, as bus.callbacks(*several); got {given!r}")
        if not callable(given):
            raise CallbackError(
                f"a callback is a function of one envelope; {given!r} can't be called: give one of its methods"
            )
        answer = self._plugins.hook.crewbus_callback_register(bus=self._bus, scope=scope, callback=given)
        if answer is not None and not callable(answer):
            raise CallbackError(f"crewbus_callback_register returns a callable or None; got {answer!r}")
        return self.as_callback(given, given if answer is None else answer)

    def unchanged(self, given: Any) -> Callback:
        """``given`` as a callback, unchanged by plugins."""
        return self.as_callback(given, given)

    def as_callback(self, given: Any, function: Function) -> Callback:
        """``function`` as a callback that stands for ``given``."""
        callback = Callback(self._bus, given, name_of(given), function)
        if is_async(given) and not is_async(function):
            call: Function = self._awaiting(function, callback)
        else:
            call = self._async_handlers.as_call(function, callback.name, callback)
        return attrs.evolve(callback, call=call)

    def _awaiting(self, function: Function, callback: Callback) -> Callable[[Envelope], None]:
        """For a plain function in which a plugin wrapped an async callback: what it returns is awaited."""

        def call(envelope: Envelope) -> None:
            answer = function(envelope)
            if inspect.isawaitable(answer):
                self._async_handlers.schedule(functools.partial(_awaited, answer), callback.name, callback, envelope)

        return call


async def _awaited(answer: Awaitable[object], _: Envelope) -> None:
    await answer
