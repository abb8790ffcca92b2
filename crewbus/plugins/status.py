"""The status of plugins: where each comes from, and why some are not loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from crewbus._util import external_stacklevel, lazy_names
from crewbus.exceptions import PluginError, PluginWarning
from crewbus.plugins.origin import UNKNOWN, Origin

if TYPE_CHECKING:
    from crewbus.plugins.info import PluginInfo

_load: Final = lazy_names("crewbus.plugins", {"info": "PluginInfo"})  # most programs never ask


class LoadStatus:
    """Where plugins come from, and why some are not loaded; pluggy knows the rest."""

    def __init__(self) -> None:
        self._origins: dict[str, Origin] = {}
        self._broken: dict[str, tuple[str, Origin]] = {}
        """By name: why a plugin is broken, and where it comes from."""
        self._duplicates: list[tuple[str, str, Origin]] = []
        """The same of plugins whose name was taken, each with that."""
        self._blocked: dict[str, tuple[str, Origin]] = {}

    def set_origin(self, name: str, origin: Origin) -> None:
        """Note where the plugin ``name`` comes from."""
        self._origins[name] = origin

    def origin(self, name: str) -> Origin:
        """Where the plugin ``name`` comes from, as far as it is known."""
        return self._origins.get(name, UNKNOWN)

    def title(self, name: str) -> str:
        """The plugin's name with its distribution, for messages."""
        return titled(name, self.origin(name))

    def block(self, name: str, reason: str, origin: Origin = UNKNOWN) -> None:
        """Note why a plugin is blocked."""
        self._blocked[name] = reason, origin

    def skip(self, name: str, reason: str, strict: bool, error: BaseException | None = None) -> None:
        """Note that a plugin is broken, and warn with a `PluginWarning`, or raise `PluginError` if ``strict``."""
        origin = self._origins.pop(name, UNKNOWN)
        self._broken[name] = reason, origin
        _warn_or_raise(titled(name, origin), reason, strict, error)

    def skip_duplicate(self, name: str, origin: Origin, strict: bool) -> None:
        """Note that another plugin has this name, and warn or raise as `skip` does."""
        reason = f"a plugin named {name!r} is loaded already"
        self._duplicates.append((name, reason, origin))
        _warn_or_raise(titled(name, origin), reason, strict, None)

    def infos(self, loaded: Mapping[str, tuple[str, ...]], blocked: Iterable[str]) -> Iterator[PluginInfo]:
        """The loaded plugins, given with their hooks, then the blocked ones, then the broken ones."""
        info: type[PluginInfo] = _load("PluginInfo")
        for name, hooks in loaded.items():
            yield info(name, "loaded", *self.origin(name), hooks)
        for name in blocked:
            reason, origin = self._blocked.get(name, ("blocked by name", UNKNOWN))
            yield info(name, "blocked", *origin, reason=reason)
        broken = [(name, *why) for name, why in self._broken.items() if name not in loaded]
        for name, reason, origin in broken + self._duplicates:
            yield info(name, "broken", *origin, reason=reason)


def titled(name: str, origin: Origin) -> str:
    """A plugin's name, with its distribution and version if it has one."""
    return f"{name!r} ({origin})" if origin.distribution else repr(name)


def _warn_or_raise(title: str, reason: str, strict: bool, error: BaseException | None) -> None:
    if strict:
        raise PluginError(f"plugin {title} failed to load: {reason}") from error
    warnings.warn(f"plugin {title} was skipped: {reason}", PluginWarning, stacklevel=external_stacklevel())
