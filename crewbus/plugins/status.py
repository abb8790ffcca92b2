"""What became of the plugins that a bus was to load: where they come from, and why some are not there."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import attrs

from crewbus._util.warn import external_stacklevel
from crewbus.exceptions import PluginError, PluginWarning
from crewbus.plugins.discovery import NOWHERE, Origin

__all__ = ["PluginInfo"]


@attrs.frozen
class PluginInfo:
    """What became of a plugin."""

    name: str
    status: str
    """"loaded", "blocked" or "broken"."""
    distribution: str | None = None
    version: str | None = None
    """The distribution's; of a local plugin its module's ``__version__``."""
    hooks: tuple[str, ...] = ()
    reason: str | None = None
    """Why it is blocked or broken."""


class Outcomes:
    """What is known of plugins besides what pluggy knows."""

    def __init__(self) -> None:
        self._origins: dict[str, Origin] = {}
        self._broken: dict[str, PluginInfo] = {}
        self._doubles: list[PluginInfo] = []
        self._blocked: dict[str, PluginInfo] = {}

    # Where a plugin comes from

    def comes_from(self, name: str, origin: Origin) -> None:
        """Note where the plugin ``name`` comes from."""
        self._origins[name] = origin

    def origin(self, name: str) -> Origin:
        """Where the plugin ``name`` comes from, as far as that is known."""
        return self._origins.get(name, NOWHERE)

    def title(self, name: str) -> str:
        """The plugin's name with where it comes from, for messages."""
        return titled(name, self.origin(name))

    # Why a plugin is not there

    def block(self, name: str, reason: str, origin: Origin = NOWHERE) -> None:
        """Note why a name is blocked, and where the plugin that bears it comes from."""
        self._blocked[name] = PluginInfo(name, "blocked", origin.distribution, origin.version, reason=reason)

    def skip(self, name: str, reason: str, strict: bool, error: BaseException | None = None) -> None:
        """Note a plugin as broken, and say so: with a `PluginWarning`, or a `PluginError` when ``strict``."""
        origin = self._origins.pop(name, NOWHERE)
        self._broken[name] = _broken(name, reason, origin)
        _tell(titled(name, origin), reason, strict, error)

    def skip_double(self, name: str, origin: Origin, strict: bool) -> None:
        """Note that a plugin's name is taken, and say so as `skip` does."""
        reason = f"a plugin named {name!r} is loaded already"
        self._doubles.append(_broken(name, reason, origin))
        _tell(titled(name, origin), reason, strict, None)

    # What there is to know

    def loaded(self, name: str, hooks: Iterable[str]) -> PluginInfo:
        """What became of a registered plugin that implements ``hooks``."""
        origin = self.origin(name)
        return PluginInfo(name, "loaded", origin.distribution, origin.version, tuple(sorted(hooks)))

    def absent(self, registered: Iterable[str], blocked: Iterable[str]) -> Iterator[PluginInfo]:
        """What became of the plugins that are not registered: blocked and broken ones."""
        there = set(registered)
        for name in blocked:
            yield self._blocked.get(name) or PluginInfo(name, "blocked", reason="blocked by name")
        yield from (info for name, info in self._broken.items() if name not in there)
        yield from self._doubles


def titled(name: str, origin: Origin) -> str:
    """A plugin's name with its distribution and version, if one brings it."""
    return f"{name!r} ({origin})" if origin.distribution else repr(name)


def _broken(name: str, reason: str, origin: Origin) -> PluginInfo:
    return PluginInfo(name, "broken", origin.distribution, origin.version, reason=reason)


def _tell(title: str, reason: str, strict: bool, error: BaseException | None) -> None:
    if strict:
        raise PluginError(f"plugin {title} failed to load: {reason}") from error
    warnings.warn(f"plugin {title} was skipped: {reason}", PluginWarning, stacklevel=external_stacklevel())
