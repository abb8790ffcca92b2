"""The plugin manager: pluggy's registry, with faults contained and named, and nothing half-registered."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import pluggy
from pluggy import HookimplOpts

from crewbus import hookspecs
from crewbus.dispatch.faults import recursed_too_deep
from crewbus.events import Envelope
from crewbus.exceptions import PluginError, PluginWarning, text_of
from crewbus.plugins.isolation import Failure, Guard, Report
from crewbus.plugins.markers import PROJECT
from crewbus.plugins.status import Outcomes, PluginInfo
from crewbus.plugins.validation import check_hookimpls, check_identity

__all__ = ["PluginInfo", "PluginManager"]

GUARDED: Final = frozenset(
    {
        "crewbus_cli_commands",
        "crewbus_close",
        "crewbus_current_run",
        "crewbus_emit",
        "crewbus_fork",
        "crewbus_plugin_error",
        "crewbus_run_finish",
        "crewbus_run_start",
        "crewbus_stream_chunk",
    }
)
"""The hooks whose failing implementations are contained; of the others, an exception reaches the caller."""

KEPT: Final = frozenset({"crewbus_flush", "crewbus_record"})
"""The hooks whose exceptions reach the caller once the siblings have run."""

_OF_ANY_OBJECT: Final = frozenset(dir(object))

_log = logging.getLogger("crewbus")


class PluginManager(pluggy.PluginManager):
    """pluggy's manager for one bus; its ``hook``, ``register``, ``unregister`` and ``set_blocked`` are as there.

    ``report`` is told of contained faults, ``changed`` of every change of the plugins or of who watches
    their calls, and ``leaving`` of each plugin that is unregistered, before and after.
    """

    def __init__(
        self,
        report: Callable[[Failure], BaseException | None],
        changed: Callable[[], None],
        leaving: Callable[[Any], None],
    ) -> None:
        super().__init__(PROJECT)
        self._report = report
        self._changed = changed
        self._leaving = leaving
        self.outcomes = Outcomes()
        """Where plugins come from, and why some are not there."""
        self._monitors: list[_Monitor] = []
        self._lock = threading.RLock()  # pluggy leaves it to its callers to take turns
        self.add_hookspecs(hookspecs)

    # Registration

    def add_hookspecs(self, module_or_class: Any) -> None:
        """As in pluggy; raises `PluginError`, and adds none, where one is there already."""
        with self._lock:
            known = {name for name, caller in vars(self.hook).items() if caller.has_spec()}
            again = [name for name in sorted(known) if self.parse_hookspec_opts(module_or_class, name)]
            if again:
                raise PluginError(f"{module_or_class!r} specifies what is a hook already: {', '.join(again)}")
            try:
                super().add_hookspecs(module_or_class)
            except (ValueError, pluggy.PluginValidationError) as error:
                raise PluginError(text_of(error)) from error

    def register(self, plugin: Any, name: str | None = None) -> str | None:
        """Register ``plugin`` (an object, a module, or a class to make one of) and return its name; None if blocked.

        Raises `PluginError`, and leaves no trace, if the name or plugin is registered already, or one of
        its hookimpls is not what its hookspec says.
        """
        plugin = self.make(plugin, name)
        if name is None:
            name = self.get_canonical_name(plugin)
        self._check_name(name)
        with self._lock:
            if self.is_blocked(name):
                return None
            self._check(plugin, name)
            callers = set(vars(self.hook))
            try:
                super().register(plugin, name)
                for caller in self.get_hookcallers(plugin) or ():
                    if caller.name in GUARDED or caller.name in KEPT:
                        self._guard(plugin, caller)
                self._changed()
            except BaseException as error:
                self._withdraw(plugin, name, callers)
                if not isinstance(error, Exception):
                    raise
                raise PluginError(f"plugin {self.outcomes.title(name)}: {text_of(error)}") from error
        return name

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> HookimplOpts | None:
        """As in pluggy, but for what every object has: that is most of what there is, and looking at it takes long."""
        return None if name in _OF_ANY_OBJECT else super().parse_hookimpl_opts(plugin, name)

    def alone(self, hook: str, member: Any) -> pluggy.HookCaller:
        """A caller of ``hook`` that reaches this plugin, if it is registered, and no other."""
        caller = pluggy.HookCaller(hook, self._hookexec)
        with self._lock:
            for impl in getattr(self.hook, hook).get_hookimpls():
                if impl.plugin is member:
                    caller._add_hookimpl(impl)
        return caller

    def call_those(self, hook: str, impls: Sequence[pluggy.HookImpl], values: Mapping[str, Any]) -> Any:
        """Call these implementations of ``hook`` and no others; monitors and tracers see it. Returns their results."""
        return self._hookexec(hook, impls, values, False)

    def forked(self) -> None:
        """In a forked child: take a new lock."""
        self._lock = threading.RLock()

    def make(self, plugin: Any, name: str | None) -> Any:
        """What is registered as ``plugin``: of a class an instance; raises `PluginError` where making it fails."""
        if not inspect.isclass(plugin):
            return plugin
        try:
            return plugin()
        except Exception as error:
            raise PluginError(
                f"plugin {self.outcomes.title(name or plugin.__qualname__)}: {plugin.__qualname__}() failed: "
                f"{type(error).__name__}: {text_of(error)}"
            ) from error

    @staticmethod
    def _check_name(name: Any) -> None:
        if not isinstance(name, str) or not name or name != name.strip() or "," in name or not name.isprintable():
            raise PluginError(
                f"{name!r} is no name for a plugin: it is a text, and of one line without commas, "
                "as it may stand in CREWBUS_BLOCK"
            )

    def _check(self, plugin: Any, name: str) -> None:
        title = self.outcomes.title(name)
        try:
            check_identity(plugin, title)
            self._check_unknown(plugin, name)
            check_hookimpls(self, plugin, title)
        except (PluginError, PluginWarning):
            raise
        except Exception as error:
            raise PluginError(f"plugin {title} can't be looked at: {type(error).__name__}: {text_of(error)}") from error

    def _check_unknown(self, plugin: Any, name: str) -> None:
        there = self.get_plugin(name)
        if there is not None:
            raise PluginError(
                f"plugin {self.outcomes.title(name)} is registered already, a {type(there).__qualname__}: "
                "choose another name, or unregister that one first"
            )
        known = self.get_name(plugin)
        if known is not None:
            same = "is" if self.get_plugin(known) is plugin else "equals what is"
            raise PluginError(f"plugin {self.outcomes.title(name)} {same} registered already, as {known!r}")

    def _withdraw(self, plugin: Any, name: str, callers: Collection[str]) -> None:
        """Undo a registration of which only a part was done; ``callers`` are the hooks that there were before."""
        super().unregister(plugin, name)
        for hook in set(vars(self.hook)).difference(callers):
            delattr(self.hook, hook)
        self._changed()

    def _guard(self, plugin: Any, caller: pluggy.HookCaller) -> None:
        for impl in caller.get_hookimpls():
            if impl.plugin is plugin and not (impl.wrapper or impl.hookwrapper):
                report = self._reporter(impl.plugin_name, caller.name) if caller.name in GUARDED else None
                impl.function = Guard(impl.function, report)  # type: ignore[misc]

    def _reporter(self, name: str, hook: str) -> Report:
        def report(error: BaseException, envelope: Envelope | None) -> BaseException | None:
            if recursed_too_deep(error):
                return error
            failure = Failure("plugin", name, error, hook, self.origin(name), envelope)
            if hook != "crewbus_plugin_error":
                return self._report(failure)
            _log.error("%s", failure)  # telling of it through the same hook would never end
            return None

        return report

    def unregister(self, plugin: Any = None, name: str | None = None) -> Any:
        """Remove a plugin, by itself or by name, and return it; None if it is not registered, or not by that name."""
        if name is None:
            name = self.get_name(plugin)
        member = self.get_plugin(name) if name is not None else None
        if name is None or member is None or (plugin is not None and plugin is not member):
            return None
        self._leaving(member)
        with self._lock:
            if self.get_plugin(name) is not member:  # it has left meanwhile
                return None
            super().unregister(member, name)
            self._changed()
        self._leaving(member)  # it may have begun to serve meanwhile
        return member

    def get_name(self, plugin: Any) -> str | None:
        """The name under which ``plugin`` is registered; None if it is not."""
        with self._lock:
            return super().get_name(plugin)

    def list_name_plugin(self) -> list[tuple[str, Any]]:
        """The names, each with its plugin, or None where it is blocked."""
        with self._lock:
            return super().list_name_plugin()

    def get_canonical_name(self, plugin: Any) -> str:
        """The name for a plugin that is registered without one: its ``__name__``, or its class's, made unique."""
        name = own_name(plugin)
        taken, number = name, 1
        while self.has_plugin(taken) and self.get_plugin(taken) is not plugin:
            number += 1
            taken = f"{name}#{number}"
        return taken

    # Watching

    @property
    def watched(self) -> bool:
        """Whether hook calls are monitored or traced, so that each must go through pluggy."""
        return bool(self._monitors)

    def add_hookcall_monitoring(self, before: Any, after: Any) -> Callable[[], None]:
        """As in pluggy; the hot hooks are called through pluggy until the returned function is called.

        Monitors may end in any order.
        """
        monitor = _Monitor(before, after)
        with self._lock:
            monitor.undo = super().add_hookcall_monitoring(monitor.before, monitor.after)
            self._monitors.append(monitor)
        self._changed()
        return functools.partial(self._end, monitor)

    def _end(self, monitor: _Monitor) -> None:
        with self._lock:
            monitor.ended = True
            while self._monitors and self._monitors[-1].ended:  # pluggy takes back the last one only
                self._monitors.pop().undo()
        self._changed()

    # Leaving out

    def set_blocked(self, name: str) -> None:
        """Let the plugin of that name go, and register none that bears it until it is unblocked."""
        self.unregister(name=name)
        with self._lock:
            super().set_blocked(name)

    # What is there

    def origin(self, name: str) -> str | None:
        """Name and version of the distribution that the plugin ``name`` came with, if it came with one."""
        origin = self.outcomes.origin(name)
        return str(origin) if origin.distribution else None

    def infos(self) -> Iterator[PluginInfo]:
        """What became of each plugin: loaded ones in order of registration, then blocked and broken ones."""
        with self._lock:
            yield from list(self._infos())

    def _infos(self) -> Iterator[PluginInfo]:
        members = {name: plugin for name, plugin in self.list_name_plugin() if plugin is not None}
        for name, plugin in members.items():
            yield self.outcomes.loaded(name, (caller.name for caller in self.get_hookcallers(plugin) or ()))
        blocked = [name for name, plugin in self.list_name_plugin() if plugin is None]
        yield from self.outcomes.absent(members, blocked)


class _Monitor:
    """What watches hook calls until it ends."""

    def __init__(self, before: Callable[..., Any], after: Callable[..., Any]) -> None:
        self._before, self._after = before, after
        self.undo: Callable[[], None] = lambda: None
        self.ended = False

    def before(self, *call: Any) -> None:
        """Tell of a call that begins."""
        if not self.ended:
            self._before(*call)

    def after(self, *call: Any) -> None:
        """Tell of a call that has ended."""
        if not self.ended:
            self._after(*call)


def own_name(plugin: Any) -> str:
    """What a plugin is called where nobody named it: a module's name, or the qualified name of a class."""
    if isinstance(plugin, type):
        return plugin.__qualname__
    try:
        name = plugin.__name__
    except Exception:
        name = None
    return name if isinstance(name, str) else type(plugin).__qualname__
