"""Plugins that join a bus and leave it: each is told once when it begins to serve, and once when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from crewbus.bus.history import History
from crewbus.dispatch.subscriptions import Subscription
from crewbus.events import Envelope, event_type_of, forget_event, register_event
from crewbus.exceptions import BusClosedError, PluginError, UnregisteredEventError, text_of

if TYPE_CHECKING:
    from crewbus.plugins.subset import HookSubset


class _Beginning(threading.local):
    """In each thread: what the plugin that is just being configured there has subscribed."""

    subscribed: list[Subscription] | None = None


_beginning: Final = _Beginning()


class Joining(History):
    """Lets plugins begin to serve a bus, and end."""

    def __init__(self, unscoped: str) -> None:
        super().__init__(unscoped)
        self._serving: dict[int, HookSubset] = {}
        """By the identity of each plugin that was configured, since others come and go by its name: its end."""

    def _configure(self, name: str, member: Any) -> None:
        """Let a registered plugin begin to serve this bus; if it can't, undo what it has begun."""
        if self.closed:
            raise BusClosedError(f"this bus is closed: {name!r} can't join it")
        registered: list[type] = []
        subscribed: list[Subscription] = []
        around, _beginning.subscribed = _beginning.subscribed, subscribed
        try:
            self._begin(name, member, registered)
        except BaseException as error:
            for cls in registered:
                forget_event(cls)
            for one in subscribed:
                if one in self._subscriptions:
                    self.off(one.event_type, one.function)
            if not isinstance(error, Exception | SystemExit):
                raise
            why = f"{type(error).__name__}: {text_of(error)}"
            raise PluginError(f"plugin {name!r} could not be configured: {why}") from error
        finally:
            _beginning.subscribed = around

    def _begin(self, name: str, member: Any, registered: list[type]) -> None:
        types = self.plugins.calls_of(member, "crewbus_event_types")
        begin = self.plugins.calls_of(member, "crewbus_configure")
        end = self.plugins.calls_of(member, "crewbus_close")
        if self.plugins.get_plugin(name) is not member:  # another thread had it leave already
            return
        for brought in types(bus=self):
            self._register_types(brought, registered)
        begin(bus=self)
        self._serving[id(member)] = end
        if self.plugins.get_plugin(name) is not member:  # it has left again
            self._retire(member)
        if self.closed:
            raise BusClosedError("the bus was closed meanwhile")

    def _subscription(self, event_type: type, function: Callable[[Envelope], Any], background: bool) -> Subscription:
        """As for any handler; noted where a plugin that begins to serve subscribes it."""
        made = super()._subscription(event_type, function, background)
        if _beginning.subscribed is not None:
            _beginning.subscribed.append(made)
        return made

    @staticmethod
    def _register_types(types: Iterable[type], registered: list[type]) -> None:
        """Register those that are not yet registered, and note them."""
        for cls in types:
            try:
                event_type_of(cls)
            except UnregisteredEventError:
                registered.append(register_event(cls))

    def _retire(self, member: Any) -> None:
        """Have a plugin that leaves release what it holds, if it was configured and has not done so."""
        with self._registry:
            end = self._serving.pop(id(member), None)
        if end is not None:
            self._tell_through(end)
