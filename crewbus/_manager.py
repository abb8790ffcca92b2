"""The plugin manager: pluggy's registry, with faults contained and named, and nothing half-registered."""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs
import pluggy

from crewbus import hookspecs
from crewbus._faults import recursed_too_deep
from crewbus._guard import Failure, Guard, Report, level_outside
from crewbus._markers import PROJECT
from crewbus.events import Envelope
from crewbus.exceptions import PluginError, PluginWarning, text_of

if TYPE_CHECKING:
    from importlib import metadata

__all__ = ["PluginInfo", "PluginManager"]

GROUP: Final = "crewbus"
"""The entry point group in which distributions name their plugins."""

BLOCK: Final = "CREWBUS_BLOCK"
"""The environment variable that names the plugins to leave out."""
ONLY: Final = "CREWBUS_ONLY"
"""The environment variable that names the installed plugins to load, and no other."""
SLOW_IMPORT: Final = 1.0
"""How many seconds a plugin may take to import until it is named for it."""

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

_log = logging.getLogger("crewbus")


@attrs.frozen
class PluginInfo:
    """What became of a plugin."""

    name: str
    status: str
    """"loaded", "blocked" or "broken"."""
    distribution: str | None = None
    version: str | None = None
    hooks: tuple[str, ...] = ()
    reason: str | None = None
    """Why it is blocked or broken."""


class PluginManager(pluggy.PluginManager):
    """pluggy's manager for one bus; its ``hook``, ``register``, ``unregister`` and ``set_blocked`` are as there.

    ``report`` is told of contained faults, ``changed`` of every change of the plugins or of who watches
    their calls.
    """

    def __init__(self, report: Callable[[Failure], BaseException | None], changed: Callable[[], None]) -> None:
        super().__init__(PROJECT)
        self._report = report
        self._changed = changed
        self._origins: dict[str, tuple[str, str]] = {}
        self._broken: dict[str, PluginInfo] = {}
        self._blocked_origins: dict[str, tuple[str, str]] = {}
        self._blocked_by: dict[str, str] = {}
        self._left_out: dict[str, PluginInfo] = {}
        self._monitors = 0
        self._lock = threading.RLock()  # pluggy leaves it to its callers to take turns
        self.add_hookspecs(hookspecs)

    # Registration

    def register(self, plugin: Any, name: str | None = None) -> str | None:
        """Register ``plugin`` (an object, a module, or a class to make one of) and return its name; None if blocked.

        Raises `PluginError`, and leaves no trace, if the name or plugin is registered already, or one of
        its hookimpls is not what its hookspec says.
        """
        if inspect.isclass(plugin):
            plugin = self._make(plugin, name)
        name = name or self.get_canonical_name(plugin)
        if self.is_blocked(name):
            return None
        with self._lock:
            self._validate(plugin, name)
            try:
                registered = super().register(plugin, name)
            except Exception as error:
                raise PluginError(f"plugin {self._title(name)}: {text_of(error)}") from error
            for caller in self.get_hookcallers(plugin) or ():
                if caller.name in GUARDED or caller.name in KEPT:
                    self._guard(plugin, caller)
            self._broken.pop(name, None)
            self._changed()
        return registered

    def alone(self, hook: str, name: str) -> pluggy.HookCaller:
        """A caller of ``hook`` that reaches the plugin ``name`` and no other."""
        with self._lock:
            member = self.get_plugin(name)
            return self.subset_hook_caller(hook, [other for other in self.get_plugins() if other is not member])

    def forked(self) -> None:
        """In a forked child: take a new lock."""
        self._lock = threading.RLock()

    def _make(self, cls: type, name: str | None) -> Any:
        try:
            return cls()
        except Exception as error:
            raise PluginError(
                f"plugin {self._title(name or cls.__qualname__)}: {cls.__qualname__}() failed: "
                f"{type(error).__name__}: {text_of(error)}"
            ) from error

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

    def _validate(self, plugin: Any, name: str) -> None:
        try:
            hash(plugin)
        except Exception as error:
            raise PluginError(
                f"plugin {self._title(name)} is told from others by what it is, so it must be hashable "
                f"({text_of(error)}): compare it by identity, with eq=False for attrs and dataclasses"
            ) from error
        known = {name for name, caller in vars(self.hook).items() if caller.has_spec()}
        for attribute in dir(plugin):
            options = self.parse_hookimpl_opts(plugin, attribute)
            if options is None:
                self._suspect(plugin, name, attribute, known)
                continue
            hook = options.get("specname") or attribute
            function = getattr(plugin, attribute)
            if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                raise PluginError(
                    f"plugin {self._title(name)}: {attribute} is 'async def', but hooks are called from "
                    "synchronous code: make it a plain function, or subscribe an async handler with bus.on()"
                )
            if hook in known:
                self._check_arguments(function, name, hook)
            elif not options.get("optionalhook"):
                raise PluginError(
                    f"plugin {self._title(name)} implements {hook}, and there is no such hook{hint(hook, known)}"
                )

    def _suspect(self, plugin: Any, name: str, attribute: str, known: set[str]) -> None:
        if attribute in known and inspect.isroutine(inspect.getattr_static(plugin, attribute, None)):
            warnings.warn(
                f"plugin {self._title(name)}: {attribute} is not marked with @crewbus.hookimpl, so it is not called",
                PluginWarning,
                stacklevel=level_outside(),
            )

    def _check_arguments(self, function: Callable[..., Any], name: str, hook: str) -> None:
        spec = getattr(self.hook, hook).spec
        takes = [*spec.argnames, *spec.kwargnames]
        asked = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.default is parameter.empty
        ]
        unknown = [argument for argument in asked if argument not in takes]
        if unknown:
            raise PluginError(
                f"plugin {self._title(name)}: {hook} asks for {', '.join(unknown)}; it may ask for {', '.join(takes)}"
            )

    def unregister(self, plugin: Any = None, name: str | None = None) -> Any:
        """Remove a plugin, by itself or by name, and return it; None if it is not registered."""
        with self._lock:
            if name is None and self.get_name(plugin) is None:
                return None
            removed = super().unregister(plugin, name)
            self._changed()
        return removed

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
        return self._monitors > 0

    def add_hookcall_monitoring(self, before: Any, after: Any) -> Callable[[], None]:
        """As in pluggy; the hot hooks are called through pluggy until the returned function is called."""
        undo = super().add_hookcall_monitoring(before, after)
        self._monitors += 1
        self._changed()

        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                undo()
                self._monitors -= 1
                self._changed()

        return end

    # Leaving out

    def block(self, name: str, reason: str) -> None:
        """As `set_blocked`, with the reason that is shown for it."""
        self._blocked_by[name] = reason
        self.set_blocked(name)

    def leave_out(self, entry: metadata.EntryPoint, reason: str) -> None:
        """Note that what ``entry`` names was not asked for; a plugin of that name may still be registered."""
        distribution, version = _origin_of(entry) or (None, None)
        self._left_out[entry.name] = PluginInfo(entry.name, "blocked", distribution, version, reason=reason)

    # Entry points

    def load_entry_points(
        self, entries: Iterable[metadata.EntryPoint], strict: bool, replaced: Iterable[str] = ()
    ) -> None:
        """Import and register the plugins that installed distributions name.

        A blocked one is not imported, nor one that is ``replaced`` by a plugin of its name. One that fails is skipped
        with a `PluginWarning`, or refused with a `PluginError` when ``strict``.
        """
        for entry in entries:
            origin = _origin_of(entry)
            if self.is_blocked(entry.name):
                if origin is not None:
                    self._blocked_origins[entry.name] = origin
            elif entry.name in replaced:
                if origin is not None:
                    self._origins.setdefault(entry.name, origin)
            elif self.has_plugin(entry.name):
                self.skip(entry.name, f"a plugin named {entry.name!r} is loaded already", strict, origin=origin)
            else:
                self._load_entry(entry, origin, strict)

    def _load_entry(self, entry: metadata.EntryPoint, origin: tuple[str, str] | None, strict: bool) -> None:
        if origin is not None:
            self._origins[entry.name] = origin
        began = time.perf_counter()
        try:
            plugin = entry.load()
            seconds = time.perf_counter() - began
            self.register(plugin, entry.name)
        except (Exception, SystemExit) as error:
            self.skip(entry.name, f"{type(error).__name__}: {text_of(error)}", strict, error)
            return
        if seconds > SLOW_IMPORT:
            warnings.warn(
                f"plugin {self._title(entry.name)} took {seconds:.1f} s to import: "
                f"block it where it is not needed ({BLOCK}={entry.name}), or let it import what is slow at first use",
                PluginWarning,
                stacklevel=level_outside(),
            )

    def skip(
        self,
        name: str,
        reason: str,
        strict: bool,
        error: BaseException | None = None,
        origin: tuple[str, str] | None = None,
    ) -> None:
        """Note a plugin as broken, and say so: with a `PluginWarning`, or a `PluginError` when ``strict``."""
        origin = origin or self._origins.pop(name, None)
        title = f"{name!r} ({' '.join(origin)})" if origin else repr(name)
        if strict:
            raise PluginError(f"plugin {title} failed to load: {reason}") from error
        distribution, version = origin or (None, None)
        self._broken[name] = PluginInfo(name, "broken", distribution, version, reason=reason)
        warnings.warn(f"plugin {title} was skipped: {reason}", PluginWarning, stacklevel=level_outside())

    # What is there

    def origin(self, name: str) -> str | None:
        """Name and version of the distribution that the plugin ``name`` came with, if it came with one."""
        origin = self._origins.get(name)
        return " ".join(origin) if origin is not None else None

    def _title(self, name: str) -> str:
        origin = self.origin(name)
        return f"{name!r} ({origin})" if origin else repr(name)

    def infos(self) -> Iterator[PluginInfo]:
        """What became of each plugin: loaded ones in order of registration, then blocked and broken ones."""
        with self._lock:
            yield from list(self._infos())

    def _infos(self) -> Iterator[PluginInfo]:
        for name, plugin in self.list_name_plugin():
            if plugin is not None:
                hooks = tuple(sorted(caller.name for caller in self.get_hookcallers(plugin) or ()))
                distribution, version = self._origins.get(name, (None, None))
                yield PluginInfo(name, "loaded", distribution, version, hooks)
        for name, plugin in self.list_name_plugin():
            if plugin is None:
                distribution, version = self._blocked_origins.get(name, (None, None))
                reason = self._blocked_by.get(name, "blocked by name")
                yield PluginInfo(name, "blocked", distribution, version, reason=reason)
        yield from (info for name, info in self._left_out.items() if not self.has_plugin(name))
        yield from self._broken.values()


def _origin_of(entry: metadata.EntryPoint) -> tuple[str, str] | None:
    """Name and version of the distribution that names ``entry``, where it is known."""
    return (entry.dist.name, entry.dist.version) if entry.dist is not None else None


def own_name(plugin: Any) -> str:
    """What a plugin is called where nobody named it: a module's name, or the qualified name of a class."""
    if isinstance(plugin, type):
        return plugin.__qualname__
    try:
        name = plugin.__name__
    except Exception:
        name = None
    return name if isinstance(name, str) else type(plugin).__qualname__


def entry_points() -> Iterable[metadata.EntryPoint]:
    """The entry points of the group, in the order in which distributions are found: a look at each of them."""
    from importlib import metadata  # it takes longer to load than all of crewbus, and not every bus asks

    return metadata.entry_points(group=GROUP)


def named_by(variable: str) -> list[str] | None:
    """The names that an environment variable lists, with commas; None where it is not set, or empty."""
    names = [name.strip() for name in os.environ.get(variable, "").split(",")]
    return [name for name in names if name] or None


def hint(name: str, known: Iterable[str]) -> str:
    """What ``name`` was meant to be, where it is near to something that is known; to be put after a message."""
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else ""
