"""The status of plugins: where each comes from, and why some are not loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import attrs

from crewbus._util import external_stacklevel
from crewbus.exceptions import PluginError, PluginWarning
from crewbus.plugins.discovery import UNKNOWN, Origin

__all__ = ["PluginInfo"]


@attrs.frozen
class PluginInfo:
    """The status of a plugin."""

    name: str
    status: str
    """"loaded", "blocked" or "broken"."""
    distribution: str | None = None
    version: str | None = None
    """The distribution's version; without a distribution, the module's ``__version__``."""
    hooks: tuple[str, ...] = ()
    reason: str | None = None
    """Why it is blocked or broken."""


class LoadStatus:
    """Where plugins come from, and why some are not loaded; pluggy knows the rest."""

    def __init__(self) -> None:
        self._origins: dict[str, Origin] = {}
        self._broken: dict[str, PluginInfo] = {}
        self._duplicates: list[PluginInfo] = []
        self._blocked: dict[str, PluginInfo] = {}

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
        self._blocked[name] = PluginInfo(name, "blocked", origin.distribution, origin.version, reason=reason)

    def skip(self, name: str, reason: str, strict: bool, error: BaseException | None = None) -> None:
        """Note that a plugin is broken, and warn with a `PluginWarning`, or raise `PluginError` if ``strict``."""
        origin = self._origins.pop(name, UNKNOWN)
        self._broken[name] = _broken(name, reason, origin)
        _warn_or_raise(titled(name, origin), reason, strict, error)

    def skip_duplicate(self, name: str, origin: Origin, strict: bool) -> None:
        """Note that another plugin has this name, and warn or raise as `skip` does."""
        reason = f"a plugin named {name!r} is loaded already"
        self._duplicates.append(_broken(name, reason, origin))
        _warn_or_raise(titled(name, origin), reason, strict, None)

    def not_loaded(self, registered: Iterable[str], blocked: Iterable[str]) -> Iterator[PluginInfo]:
        """The blocked plugins, then the broken ones."""
        loaded = set(registered)
        for name in blocked:
            yield self._blocked.get(name) or PluginInfo(name, "blocked", reason="blocked by name")
        yield from (info for name, info in self._broken.items() if name not in loaded)
        yield from self._duplicates


def titled(name: str, origin: Origin) -> str:
    """A plugin's name, with its distribution and version if it has one."""
    return f"{name!r} ({origin})" if origin.distribution else repr(name)


def _broken(name: str, reason: str, origin: Origin) -> PluginInfo:
    return PluginInfo(name, "broken", origin.distribution, origin.version, reason=reason)


def _warn_or_raise(title: str, reason: str, strict: bool, error: BaseException | None) -> None:
    if strict:
        raise PluginError(f"plugin {title} failed to load: {reason}") from error
    warnings.warn(f"plugin {title} was skipped: {reason}", PluginWarning, stacklevel=external_stacklevel())
