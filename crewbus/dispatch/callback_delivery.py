"""Callbacks as the plugins want them called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crewbus._util import name_of
from crewbus.dispatch.async_handlers import HomeLoop
from crewbus.exceptions import CallbackError
from crewbus.scopes import Callback, Callbacks, Function

if TYPE_CHECKING:
    from crewbus.plugins import PluginManager
    from crewbus.scopes import Call


class CallbackRegistration:
    """Makes a `Callback` of what is given to a call or to `Bus.callbacks`."""

    def __init__(self, bus: Any, plugins: PluginManager) -> None:
        self._bus = bus
        self._plugins = plugins

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
        return Callback(self._bus, given, name_of(given), function, HomeLoop())
