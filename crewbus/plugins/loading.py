"""Which plugins a bus loads: those it is given, its default ones, installed ones, and those in the environment."""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crewbus._util import did_you_mean, external_stacklevel
from crewbus.exceptions import PluginError, PluginWarning
from crewbus.plugins.discovery import (
    BLOCK,
    PLUGINS,
    Candidate,
    blocked_by_environment,
    installed,
    module_plugin,
    names_in,
    refuse_half_imported,
    version_of,
    why_not_loaded,
)
from crewbus.plugins.manager import PluginManager, own_name
from crewbus.plugins.markers import declares_required
from crewbus.plugins.origin import Origin
from crewbus.plugins.status import titled

if TYPE_CHECKING:
    from crewbus.plugins.info import PluginInfo
    from crewbus.plugins.requirements import Requirement

SLOW_IMPORT: Final = 1.0
"""A plugin that takes more than this number of seconds to import is reported."""


class PluginSelection(NamedTuple):
    """Which plugins to load, as given to the constructor of `Bus`."""

    plugins: tuple[Any, ...]
    entry_points: bool
    blocked: Mapping[str, str] | None
    """The names to leave out, each with the reason to show."""
    strict: bool

    @classmethod
    def of(
        cls, plugins: Iterable[Any], entry_points: bool, blocked: Iterable[str] | None, strict: bool
    ) -> PluginSelection:
        """The selection that these arguments of `Bus` mean; a single text is one name."""
        reasons = blocked if isinstance(blocked, Mapping) else dict.fromkeys(_tuple_of(blocked), "blocked by name")
        return cls(_tuple_of(plugins), entry_points, None if blocked is None else reasons, strict)


def _tuple_of(items: Iterable[Any] | None) -> tuple[Any, ...]:
    return (items,) if isinstance(items, str) else tuple(items or ())


class Loader:
    """Loads the plugins of one bus into its manager.

    ``defaults``: the plugins to load unless they are blocked or replaced, as ``module`` or ``module:attribute``, by
    name.
    """

    def __init__(self, manager: PluginManager, defaults: Mapping[str, str], selection: PluginSelection) -> None:
        self._manager = manager
        self._status = manager.status
        self._defaults = defaults
        self._selection = selection
        self._named = {item for item in selection.plugins if isinstance(item, str)}
        """The plugins that are given by name."""
        self._objects = {_name_of(item) for item in selection.plugins if not isinstance(item, str)}
        """The names of those that are given themselves."""
        scan = selection.entry_points or self._named.difference(defaults)
        self._installed = installed() if scan else {}

    def load(self) -> None:
        """Register the selected plugins; raises `PluginError` if one can't be loaded and the selection is strict."""
        self._block()
        found = [candidate for candidate in self._find() if candidate.name not in self._objects]
        replaced = self._objects.union(candidate.name for candidate in found)
        self._load_defaults(self._defaults.keys() - replaced)
        self._load_given()
        for candidate in found:
            self._load(candidate)
        self._load_defaults(self._defaults.keys())  # those whose replacement could not be loaded

    @property
    def _known(self) -> list[str]:
        return [*self._defaults, *self._named, *self._objects, *self._installed]

    def _block(self) -> None:
        blocked = self._selection.blocked
        if blocked is None:
            blocked = blocked_by_environment(self._named | self._objects)
        for name, reason in blocked.items():
            self._manager.set_blocked(name)
            origins = [candidate.origin for candidate in self._installed.get(name, ())]
            self._status.block(name, reason, *origins[:1])

    def _find(self) -> Iterator[Candidate]:
        """Find the plugins that are neither given nor default ones: installed plugins, then modules."""
        if not self._selection.entry_points:
            return
        for name, candidates in self._installed.items():
            yield from candidates[1:] if name in self._named else candidates
        for name in dict.fromkeys(names_in(PLUGINS) or ()):
            if name not in self._known:
                yield module_plugin(name, known=self._known, named_by=PLUGINS)

    def _load_defaults(self, names: Collection[str]) -> None:
        for name, reference in self._defaults.items():
            if name in names and not self._manager.has_plugin(name):
                self._load(module_plugin(name, reference))

    def _load_given(self) -> None:
        for item in self._selection.plugins:
            if not isinstance(item, str):
                self._register_given(item)
            elif item not in self._defaults and not self._manager.has_plugin(item):
                self._load(next(iter(self._installed.get(item, ())), None) or module_plugin(item, known=self._known))

    def _register_given(self, item: Any) -> None:
        name, plugin = item if isinstance(item, tuple) else (None, item)
        try:
            registered = self._manager.add(plugin, name)
        except Exception as error:
            strict = self._selection.strict or declares_required(plugin)
            self._status.skip(name or own_name(plugin), why_not_loaded(error), strict, error)
            return
        for candidate in self._installed.get(registered or "", ())[:1]:
            self._status.set_origin(candidate.name, candidate.origin)

    def _load(self, candidate: Candidate) -> None:
        """Import and register a plugin, unless it is blocked."""
        name = candidate.name
        if self._manager.is_blocked(name):
            return
        if self._manager.has_plugin(name):
            self._status.skip_duplicate(name, candidate.origin, self._selection.strict)
            return
        self._status.set_origin(name, candidate.origin)
        began, plugin = time.perf_counter(), None
        try:
            plugin = refuse_half_imported(candidate.load())
            seconds = time.perf_counter() - began
            self._manager.add(plugin, name)
        except (Exception, SystemExit) as error:
            by = f"{candidate.named_by} names it: " if candidate.named_by else ""
            strict = self._selection.strict or declares_required(plugin)
            self._status.skip(name, f"{by}{why_not_loaded(error)}", strict, error)
            return
        if candidate.origin.distribution is None and name not in self._defaults:  # crewbus's version takes long to read
            self._status.set_origin(name, Origin(None, version_of(self._manager.get_plugin(name))))
        if seconds > SLOW_IMPORT:
            self._warn_slow_import(name, seconds)

    def _warn_slow_import(self, name: str, seconds: float) -> None:
        warnings.warn(
            f"plugin {self._status.title(name)} took {seconds:.1f} s to import: "
            f"block it where it is not needed ({BLOCK}={name}), or let it import what is slow at first use",
            PluginWarning,
            stacklevel=external_stacklevel(),
        )

    # Requirements

    def check(self, requirements: Collection[Requirement]) -> None:
        """Raise `PluginError` if a required plugin is not loaded, or is of another version."""
        if not requirements:
            return
        infos: dict[str, PluginInfo] = {}
        for info in self._manager.infos():
            infos.setdefault(info.name, info)
        for requirement in requirements:
            problem = self._problem(requirement, infos.get(requirement.name))
            if problem is not None:
                raise PluginError(problem)

    def _problem(self, requirement: Requirement, info: PluginInfo | None) -> str | None:
        title, problem = repr(requirement.name), self._problem_of(requirement, info)
        if problem is None:
            return None
        if info is not None:
            title = titled(requirement.name, Origin(info.distribution, info.version))
        written = f" ({requirement.text})" if requirement.specifiers is not None else ""
        return f"plugin {title} is required{written}, and {problem}"

    def _problem_of(self, requirement: Requirement, info: PluginInfo | None) -> str | None:
        if info is None:
            return self._why_missing(requirement.name)
        if info.status == "loaded":
            return requirement.problem(info.version or version_of(self._manager.get_plugin(info.name)))
        return f"is broken: {info.reason}" if info.status == "broken" else f"is {info.reason}"

    def _why_missing(self, name: str) -> str:
        if not self._selection.entry_points:
            return "is not there: this bus loads no installed plugins (entry_points=False)"
        plugins = {one.origin.distribution: one.name for several in self._installed.values() for one in several}
        near = f": did you mean {plugins[name]}?" if name in plugins else did_you_mean(name, self._known)
        return f"is not installed{near}"


def _name_of(item: Any) -> str:
    name, plugin = item if isinstance(item, tuple) else (None, item)
    return name or own_name(plugin)
