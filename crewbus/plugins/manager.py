"""The plugin manager: pluggy's registry; a plugin is registered completely or not at all, and errors name it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pluggy
from pluggy import HookImpl, HookimplOpts

from crewbus._util import reentrant_lock
from crewbus.events import Envelope
from crewbus.exceptions import PluginError, PluginWarning, text_of
from crewbus.plugins.isolation import CONTAINED, DEFERRED, Guard, Report
from crewbus.plugins.markers import PROJECT, declares_required
from crewbus.plugins.monitoring import Monitor, Monitors
from crewbus.plugins.status import LoadStatus
from crewbus.plugins.subset import HookSubset
from crewbus.plugins.validation import check_hookimpls, check_identity
from crewbus.scopes import Deferring

if TYPE_CHECKING:
    from crewbus.plugins.info import PluginInfo

__all__ = ["PluginManager"]

_OF_ANY_OBJECT: Final = frozenset(dir(object))


class PluginManager(pluggy.PluginManager):
    """The plugins of one bus. It extends pluggy's manager: ``hook`` and `set_blocked`, for example, are pluggy's.

    ``hookspecs``: the module with the bus's own hooks. ``report`` gets the name of a plugin, the hook, what it
    raised and the envelope, for each contained fault; it returns the exception that the caller must get nevertheless,
    if any. ``propagates`` says of an exception that it ends a hook call at once and is not contained. ``joining`` is
    called with the name of each plugin and the plugin after it is registered, ``leaving`` with each plugin before and
    after it is unregistered, and ``changed`` after each change of the plugins or of the monitors.
    """

    def __init__(
        self,
        hookspecs: ModuleType,
        *,
        report: Callable[[str, str, Exception, Envelope | None], BaseException | None],
        propagates: Callable[[BaseException], bool],
        changed: Callable[[], None],
        joining: Callable[[str, Any], None],
        leaving: Callable[[Any], None],
    ) -> None:
        super().__init__(PROJECT)
        self._hookspecs = hookspecs
        self._report = report
        self._propagates = propagates
        self._changed = changed
        self._joining = joining
        self._leaving = leaving
        self.status = LoadStatus()
        """Where plugins come from, and why some are not loaded."""
        self.required: set[str] = set()
        """The names of the plugins that the bus requires. See `is_required`."""
        self._monitors = Monitors(super().add_hookcall_monitoring)
        self._lock = reentrant_lock()  # pluggy has none
        self.add_hookspecs(hookspecs)

    # Registration

    def add_hookspecs(self, module_or_class: Any) -> None:
        """As in pluggy; raises `PluginError`, and adds no hook, if one of them exists already."""
        with Deferring(self._lock), self._lock:
            known = {name for name, caller in vars(self.hook).items() if caller.has_spec()}
            again = [name for name in sorted(known) if self.parse_hookspec_opts(module_or_class, name)]
            if again:
                raise PluginError(f"{module_or_class!r} specifies what is a hook already: {', '.join(again)}")
            try:
                super().add_hookspecs(module_or_class)
            except (ValueError, pluggy.PluginValidationError) as error:
                raise PluginError(text_of(error)) from error

    def register(self, plugin: Any, name: str | None = None) -> str | None:
        """Let ``plugin`` (an object, a module, or a class to make an instance of) join the bus.

        Returns its name, or None if that name is blocked. Raises `PluginError`, and leaves no trace, if the plugin or
        its name is registered already, if a hookimpl does not match its hookspec, or if the plugin can't be configured;
        and `BusClosedError`.
        """
        plugin = self.make(plugin, name)
        registered = self.add(plugin, name)
        if registered is not None:
            self.join(registered, plugin)
        return registered

    def add(self, plugin: Any, name: str | None = None) -> str | None:
        """Register ``plugin`` as `register` does, but without letting it join; a bus joins its plugins when it has all.

        Returns its name, or None if that name is blocked.
        """
        plugin = self.make(plugin, name)
        if name is None:
            name = self.get_canonical_name(plugin)
        _check_name(name)
        with Deferring(self._lock), self._lock:
            if self.is_blocked(name):
                return None
            self._check(plugin, name)
            hooks = set(vars(self.hook))
            try:
                super().register(plugin, name)
                self._guard(plugin)
                self._changed()
            except BaseException as error:
                self._withdraw(plugin, name, hooks)
                if not isinstance(error, Exception):
                    raise
                raise PluginError(f"plugin {self.status.title(name)}: {text_of(error)}") from error
        return name

    def join(self, name: str, plugin: Any) -> None:
        """Let a registered plugin join the bus; unregister it, and raise, if it can't."""
        try:
            self._joining(name, plugin)
        except BaseException:
            self.unregister(plugin, name)
            raise

    def make(self, plugin: Any, name: str | None) -> Any:
        """Return an instance of ``plugin`` if it is a class, and ``plugin`` otherwise; raises `PluginError`."""
        if not inspect.isclass(plugin):
            return plugin
        try:
            return plugin()
        except Exception as error:
            raise PluginError(
                f"plugin {self.status.title(name or plugin.__qualname__)}: {plugin.__qualname__}() failed: "
                f"{type(error).__name__}: {text_of(error)}"
            ) from error

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> HookimplOpts | None:
        """As in pluggy, but skip the attributes that every object has: they would take most of the time."""
        return None if name in _OF_ANY_OBJECT else super().parse_hookimpl_opts(plugin, name)

    def _check(self, plugin: Any, name: str) -> None:
        title = self.status.title(name)
        try:
            check_identity(plugin, title)
            self._check_not_registered(plugin, name)
            check_hookimpls(self, plugin, title, self._hookspecs)
        except (PluginError, PluginWarning):
            raise
        except Exception as error:
            raise PluginError(f"plugin {title} can't be inspected: {type(error).__name__}: {text_of(error)}") from error

    def _check_not_registered(self, plugin: Any, name: str) -> None:
        other = self.get_plugin(name)
        if other is not None:
            raise PluginError(
                f"plugin {self.status.title(name)} is registered already, a {type(other).__qualname__}: "
                "choose another name, or unregister that one first"
            )
        known = self.get_name(plugin)
        if known is not None:
            same = "is" if self.get_plugin(known) is plugin else "equals what is"
            raise PluginError(f"plugin {self.status.title(name)} {same} registered already, as {known!r}")

    def _withdraw(self, plugin: Any, name: str, hooks: Collection[str]) -> None:
        """Undo an incomplete registration; ``hooks`` are those that existed before."""
        super().unregister(plugin, name)
        for hook in set(vars(self.hook)).difference(hooks):
            delattr(self.hook, hook)
        self._changed()

    def _guard(self, plugin: Any) -> None:
        for caller in self.get_hookcallers(plugin) or ():
            if caller.name not in CONTAINED and caller.name not in DEFERRED:
                continue
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin and not (impl.wrapper or impl.hookwrapper):
                    report = self._reporter(impl.plugin_name, caller.name) if caller.name in CONTAINED else None
                    impl.function = Guard(impl.function, report, self._propagates)  # type: ignore[misc]

    def _reporter(self, name: str, hook: str) -> Report:
        def report(error: Exception, envelope: Envelope | None) -> BaseException | None:
            return self._report(name, hook, error, envelope)

        return report

    def unregister(self, plugin: Any = None, name: str | None = None) -> Any:
        """Unregister a plugin, given itself or by name, and return it, after it has released what it holds.

        Returns None if it is not registered, or under another name.
        """
        if isinstance(plugin, str):
            plugin, name = None, plugin
        if name is None:
            name = self.get_name(plugin)
        member = self.get_plugin(name) if name is not None else None
        if name is None or member is None or (plugin is not None and plugin is not member):
            return None
        self._leaving(member)
        with Deferring(self._lock), self._lock:
            if self.get_plugin(name) is not member:  # another thread has unregistered it
                return None
            super().unregister(member, name)
            self._changed()
        self._leaving(member)  # another thread may have let it join meanwhile
        return member

    def set_blocked(self, name: str) -> None:
        """Unregister the plugin of that name, and register none under it until it is unblocked."""
        self.unregister(name=name)
        with Deferring(self._lock), self._lock:
            super().set_blocked(name)

    # Calls

    def subset(self, hook: str, impls: Iterable[HookImpl]) -> HookSubset:
        """A call of these implementations of ``hook`` and of no others."""
        return HookSubset(hook, getattr(self.hook, hook).spec, tuple(impls), self._hookexec)

    def calls_of(self, plugin: Any, hook: str) -> HookSubset:
        """A call of the implementations of ``hook`` that ``plugin`` has now, even after it is unregistered."""
        with Deferring(self._lock), self._lock:
            return self.subset(
                hook, (impl for impl in getattr(self.hook, hook).get_hookimpls() if impl.plugin is plugin)
            )

    def is_required(self, name: str) -> bool:
        """Whether no work may begin without the plugin: the bus requires it, or it has ``crewbus_required = True``."""
        return name in self.required or declares_required(self.get_plugin(name))

    # Monitoring

    @property
    def watched(self) -> bool:
        """Whether hook calls are monitored or traced, so that each must go through pluggy."""
        return bool(self._monitors)

    def add_hookcall_monitoring(self, before: Any, after: Any) -> Callable[[], None]:
        """As in pluggy, and monitors may end in any order. All hooks are called through pluggy until then."""
        with Deferring(self._lock), self._lock:
            monitor = self._monitors.add(before, after)
        self._changed()
        return functools.partial(self._end_monitoring, monitor)

    def _end_monitoring(self, monitor: Monitor) -> None:
        with Deferring(self._lock), self._lock:
            self._monitors.end(monitor)
        self._changed()

    # Information

    def get_name(self, plugin: Any) -> str | None:
        """The name under which ``plugin`` is registered; None if it is not."""
        with Deferring(self._lock), self._lock:
            return super().get_name(plugin)

    def list_name_plugin(self) -> list[tuple[str, Any]]:
        """Pairs of name and plugin; the plugin is None if the name is blocked."""
        with Deferring(self._lock), self._lock:
            return super().list_name_plugin()

    def get_canonical_name(self, plugin: Any) -> str:
        """The name of a plugin that is registered without one: its own or its class's, numbered if it is taken."""
        name = own_name(plugin)
        free, number = name, 1
        while self.has_plugin(free) and self.get_plugin(free) is not plugin:
            number += 1
            free = f"{name}#{number}"
        return free

    def origin(self, name: str) -> str | None:
        """Name and version of the distribution of the plugin ``name``, if it has one."""
        origin = self.status.origin(name)
        return str(origin) if origin.distribution else None

    def infos(self) -> Iterator[PluginInfo]:
        """The status of each plugin: loaded ones in the order of registration, then blocked and broken ones."""
        with Deferring(self._lock), self._lock:
            infos = list(self._infos())
        return iter(infos)

    def _infos(self) -> Iterator[PluginInfo]:
        plugins = self.list_name_plugin()
        loaded = {
            name: tuple(sorted(caller.name for caller in self.get_hookcallers(plugin) or ()))
            for name, plugin in plugins
            if plugin is not None
        }
        return self.status.infos(loaded, [name for name, plugin in plugins if plugin is None])

    def after_fork(self) -> None:
        """Take a new lock, in a forked child."""
        self._lock = reentrant_lock()


def own_name(plugin: Any) -> str:
    """A module's name, or the qualified name of a class or of an object's class."""
    if isinstance(plugin, type):
        return plugin.__qualname__
    try:
        name = plugin.__name__
    except Exception:
        name = None
    return name if isinstance(name, str) else type(plugin).__qualname__


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or name != name.strip() or "," in name or not name.isprintable():
        raise PluginError(
            f"{name!r} is no name for a plugin: a name is printable text on one line, without commas, "
            "so that CREWBUS_BLOCK can list it"
        )
