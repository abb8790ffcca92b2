"""Plugins join a bus and leave it: each is configured once when it joins, and closed once when it leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from crewbus import plugins as plugin_package
from crewbus._util import reentrant_lock
from crewbus.events import event_type_of, forget_event, register_event
from crewbus.exceptions import BusClosedError, PluginError, UnregisteredEventError, text_of
from crewbus.scopes import Deferring

if TYPE_CHECKING:
    from crewbus.dispatch import Dispatcher, FaultReporter, Subscription, Subscriptions
    from crewbus.plugins import PluginManager, PluginSelection


class _Configuring(threading.local):
    """In each thread: what the plugin that is being configured there has subscribed."""

    subscribed: list[Subscription] | None = None


_configuring: Final = _Configuring()


def _notice(subscription: Subscription) -> None:
    if _configuring.subscribed is not None:
        _configuring.subscribed.append(subscription)


DEFAULT_PLUGINS: Final[Mapping[str, str]] = {
    "memory_store": "crewbus.builtin.memory_store",
    "run_scope": "crewbus.builtin.run_scope:RunScope",
    "checkpoint_recorder": "crewbus.builtin.checkpoint_recorder:CheckpointRecorder",
    "callback_isolation": "crewbus.builtin.callback_isolation:CallbackIsolation",
}
"""The plugins that a bus loads unless they are blocked or replaced, as ``module`` or ``module:attribute``."""


class Membership:
    """The plugins that serve a bus."""

    def __init__(
        self, bus: Dispatcher, plugins: PluginManager, subscriptions: Subscriptions, faults: FaultReporter
    ) -> None:
        self._bus = bus
        self._plugins = plugins
        self._subscriptions = subscriptions
        self._faults = faults
        self._serving: dict[int, Callable[[], None]] = {}
        """By the identity of each plugin that was configured, since others come and go by its name: what closes it."""
        self._lock = reentrant_lock()
        subscriptions.notice = _notice

    def after_fork(self) -> None:
        """In a forked child: take new locks, and notify the plugins."""
        self._lock = reentrant_lock()
        self._plugins.after_fork()
        self._faults.notify("crewbus_after_fork")

    # Joining

    def load(self, defaults: Mapping[str, str], selection: PluginSelection, requires: Iterable[str]) -> None:
        """Register and configure the plugins of a new bus. Raises `PluginError`."""
        required = () if requires == () else plugin_package.parse_requirements(requires)
        self._plugins.required.update(requirement.name for requirement in required)
        loader = plugin_package.Loader(self._plugins, defaults, selection)
        loader.load()
        loader.check(required)  # before a plugin is configured and opens what it needs
        for name, member in self._plugins.list_name_plugin():
            if member is not None and self._plugins.get_plugin(name) is member and id(member) not in self._serving:
                try:
                    self._plugins.join(name, member)
                except PluginError as error:
                    strict = selection.strict or plugin_package.declares_required(member)
                    self._plugins.status.skip(name, text_of(error), strict, error)
        loader.check(required)

    def configure(self, name: str, member: Any) -> None:
        """Configure a registered plugin. If that fails, undo what it has begun; the manager unregisters it."""
        if self._bus.closed:
            raise BusClosedError(f"this bus is closed: {name!r} can't join it")
        registered: list[type] = []
        subscribed: list[Subscription] = []
        around, _configuring.subscribed = _configuring.subscribed, subscribed
        try:
            self._begin(name, member, registered)
        except BaseException as error:
            for cls in registered:
                forget_event(cls)
            for subscription in subscribed:
                self._subscriptions.remove(subscription)
            if not isinstance(error, Exception | SystemExit):
                raise
            why = f"{type(error).__name__}: {text_of(error)}"
            raise PluginError(f"plugin {name!r} could not be configured: {why}") from error
        finally:
            _configuring.subscribed = around

    def _begin(self, name: str, member: Any, registered: list[type]) -> None:
        types = self._plugins.calls_of(member, "crewbus_event_types")
        configure = self._plugins.calls_of(member, "crewbus_configure")
        close = self._plugins.calls_of(member, "crewbus_close")
        if self._plugins.get_plugin(name) is not member:  # another thread unregistered it already
            return
        for classes in types(bus=self._bus):
            self._register_types(classes, registered)
        configure(bus=self._bus)
        self._serving[id(member)] = lambda: self._faults.notify_through(close)
        if self._plugins.get_plugin(name) is not member:  # it was unregistered meanwhile
            self.leave(member)
        if self._bus.closed:
            raise BusClosedError("the bus was closed meanwhile")

    @staticmethod
    def _register_types(types: Iterable[type], registered: list[type]) -> None:
        """Register the event types that are not yet registered, and note them."""
        for cls in types:
            try:
                event_type_of(cls)
            except UnregisteredEventError:
                registered.append(register_event(cls))

    # Leaving

    def leave(self, member: Any) -> None:
        """Close a plugin that is unregistered, if it was configured and not closed yet."""
        with Deferring(self._lock), self._lock:
            close = self._serving.pop(id(member), None)
        if close is not None:
            close()

    def unregister_unconfigured(self) -> None:
        """Unregister the plugins of a bus whose constructor failed that were not configured yet."""
        for name, member in self._plugins.list_name_plugin():
            if member is not None and id(member) not in self._serving:
                self._plugins.unregister(name=name)

    def close(self) -> None:
        """Forget the plugins: the bus is closed, and releases them."""
        self._serving.clear()
