"""Which plugins a bus loads: those it is given, the built-in ones, what is installed, what the environment names."""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import attrs

from crewbus._util.warn import external_stacklevel
from crewbus.exceptions import PluginError, PluginWarning
from crewbus.plugins.discovery import (
    BLOCK,
    PLUGINS,
    Found,
    Origin,
    blocked_by_environment,
    explained,
    installed,
    local,
    named_by,
    own_version,
    version_of,
    whole,
)
from crewbus.plugins.manager import PluginManager, own_name
from crewbus.plugins.requirements import Requirement
from crewbus.plugins.status import PluginInfo, titled
from crewbus.plugins.validation import hint

SLOW_IMPORT: Final = 1.0
"""How many seconds a plugin may take to import until it is named for it."""


@attrs.frozen
class PluginSelection:
    """What a bus's constructor was told of plugins; see `Bus`."""

    plugins: tuple[Any, ...]
    entry_points: bool
    blocked: Mapping[str, str] | None
    """The names to leave out, each with the reason to show."""
    strict: bool

    @classmethod
    def of(
        cls,
        plugins: Iterable[Any],
        entry_points: bool,
        blocked: Iterable[str] | None,
        strict: bool,
    ) -> PluginSelection:
        """The wishes that these arguments of `Bus` mean; one text is one name."""
        reasons = blocked if isinstance(blocked, Mapping) else dict.fromkeys(_texts(blocked), "blocked by name")
        return cls(
            _texts(plugins),
            entry_points,
            None if blocked is None else reasons,
            strict,
        )


def _texts(items: Iterable[Any] | None) -> tuple[Any, ...]:
    return (items,) if isinstance(items, str) else tuple(items or ())


class Loader:
    """Loads the plugins of one bus into its manager."""

    def __init__(self, manager: PluginManager, builtins: Mapping[str, Any], wishes: PluginSelection) -> None:
        self._manager = manager
        self._outcomes = manager.outcomes
        self._builtins = builtins
        self._wishes = wishes
        self._named = {item for item in wishes.plugins if isinstance(item, str)}
        """What is given by its name alone."""
        self._names = {self._name_of(item) for item in wishes.plugins}
        """What is given, by name or itself."""
        self._installed = installed() if wishes.entry_points or self._named.difference(builtins) else {}

    def load(self) -> None:
        """Register all that are wanted; raises `PluginError` when strict."""
        self._block()
        found = list(self._found())
        replaced = (self._names - self._named) | {one.name for one in found}
        self._load_builtins(self._builtins.keys() - replaced)
        self._load_given()
        for one in found:
            self._load(one)
        self._load_builtins(self._builtins.keys())  # those whose replacement could not be loaded

    @staticmethod
    def _name_of(item: Any) -> str:
        if isinstance(item, str):
            return item
        name, plugin = item if isinstance(item, tuple) else (None, item)
        return name or own_name(plugin)

    @property
    def _known(self) -> list[str]:
        return [*self._builtins, *self._names, *self._installed]

    # Leaving out

    def _block(self) -> None:
        blocked = self._wishes.blocked
        if blocked is None:  # what is given by name is wanted
            blocked = blocked_by_environment(self._names)
        for name, reason in blocked.items():
            self._manager.set_blocked(name)
            origins = [one.origin for one in self._installed.get(name, ())]
            self._outcomes.block(name, reason, *origins[:1])

    def _found(self) -> Iterable[Found]:
        """What is to be loaded besides what is given and built in: installed plugins, then local ones."""
        if not self._wishes.entry_points:
            return
        for name, several in self._installed.items():
            yield from several[1:] if name in self._named else several
        for name in dict.fromkeys(named_by(PLUGINS) or ()):
            if name not in self._known:
                yield local(name, self._known, PLUGINS)

    # Loading

    def _load_builtins(self, names: Iterable[str]) -> None:
        for name, plugin in self._builtins.items():
            if name in names and not self._manager.has_plugin(name):
                self._manager.register(plugin, name)

    def _load_given(self) -> None:
        for item in self._wishes.plugins:
            if not isinstance(item, str):
                self._register_given(item)
            elif item not in self._builtins and not self._manager.has_plugin(item):
                self._load(next(iter(self._installed.get(item, ())), None) or local(item, self._known))

    def _register_given(self, item: Any) -> None:
        name, plugin = item if isinstance(item, tuple) else (None, item)
        try:
            registered = self._manager.register(plugin, name)
        except Exception as error:
            self._outcomes.skip(name or own_name(plugin), explained(error), self._wishes.strict, error)
            return
        for one in self._installed.get(registered or "", ())[:1]:
            self._outcomes.comes_from(one.name, one.origin)

    def _load(self, found: Found) -> None:
        """Import and register a plugin, unless it is blocked, or given under that name."""
        name = found.name
        if self._manager.is_blocked(name) or name in self._names - self._named:
            return
        if self._manager.has_plugin(name):
            self._outcomes.skip_double(name, found.origin, self._wishes.strict)
            return
        self._outcomes.comes_from(name, found.origin)
        began = time.perf_counter()
        try:
            plugin = whole(found.load())
            seconds = time.perf_counter() - began
            self._manager.register(plugin, name)
        except (Exception, SystemExit) as error:
            by = f"{found.named_by} names it: " if found.named_by else ""
            self._outcomes.skip(name, f"{by}{explained(error)}", self._wishes.strict, error)
            return
        if found.origin.distribution is None:
            self._outcomes.comes_from(name, Origin(None, version_of(self._manager.get_plugin(name))))
        if seconds > SLOW_IMPORT:
            self._point_out(name, seconds)

    def _point_out(self, name: str, seconds: float) -> None:
        warnings.warn(
            f"plugin {self._outcomes.title(name)} took {seconds:.1f} s to import: "
            f"block it where it is not needed ({BLOCK}={name}), or let it import what is slow at first use",
            PluginWarning,
            stacklevel=external_stacklevel(),
        )

    # Requiring

    def check(self, requirements: Collection[Requirement]) -> None:
        """Raise `PluginError` if a required plugin is not loaded, or of another version."""
        if not requirements:
            return
        infos: dict[str, PluginInfo] = {}
        for info in self._manager.infos():
            infos.setdefault(info.name, info)
        for requirement in requirements:
            complaint = self._complaint(requirement, infos.get(requirement.name))
            if complaint is not None:
                raise PluginError(complaint)

    def _complaint(self, requirement: Requirement, info: PluginInfo | None) -> str | None:
        name, title = requirement.name, repr(requirement.name)
        if info is None:
            wrong: str | None = self._not_there(name)
        else:
            title = titled(name, Origin(info.distribution, info.version))
            wrong = self._amiss(requirement, info)
        written = f" ({requirement.text})" if requirement.specifiers is not None else ""
        return f"plugin {title} is required{written}, and {wrong}" if wrong is not None else None

    def _amiss(self, requirement: Requirement, info: PluginInfo) -> str | None:
        if info.status == "loaded":
            return requirement.problem(self._version(info.name, info.version))
        return f"is broken: {info.reason}" if info.status == "broken" else f"is {info.reason}"

    def _not_there(self, name: str) -> str:
        if not self._wishes.entry_points:
            return "is not there: this bus loads no installed plugins (entry_points=False)"
        brought = {one.origin.distribution: one.name for several in self._installed.values() for one in several}
        near = f": did you mean {brought[name]}?" if name in brought else hint(name, self._known)
        return f"is not installed{near}"

    def _version(self, name: str, version: str | None) -> str | None:
        plugin = self._manager.get_plugin(name)
        if name in self._builtins and self._builtins[name] in (plugin, type(plugin)):
            return own_version()
        return version or version_of(plugin)
