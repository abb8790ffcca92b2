"""Plugins that are found by name: what installed distributions bring, and modules that have none."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import attrs

from crewbus._util.warn import external_stacklevel
from crewbus.exceptions import PluginError, PluginWarning, text_of
from crewbus.plugins.validation import hint

if TYPE_CHECKING:
    from importlib import metadata

GROUP: Final = "crewbus"
"""The entry point group in which distributions name their plugins."""

BLOCK: Final = "CREWBUS_BLOCK"
"""The environment variable that names the plugins to leave out."""
PLUGINS: Final = "CREWBUS_PLUGINS"
"""The environment variable that names modules to load as plugins, besides what is installed."""


@attrs.frozen
class Origin:
    """Where a plugin comes from."""

    distribution: str | None = None
    """The distribution that brings it; None of a module without one."""
    version: str | None = None
    """The distribution's, or the module's ``__version__``."""

    def __str__(self) -> str:
        return " ".join(part for part in (self.distribution, self.version) if part)


NOWHERE: Final = Origin()


@attrs.frozen
class Found:
    """A plugin that was found by name, and is not imported yet."""

    name: str
    load: Callable[[], Any]
    origin: Origin = NOWHERE
    named_by: str | None = None
    """What named it, where that is not a distribution."""


def installed() -> Mapping[str, list[Found]]:
    """By name, what distributions name in the group, in the order in which they are found: a look at each of them."""
    found: dict[str, list[Found]] = {}
    for entry in _entries():
        found.setdefault(entry.name, []).append(Found(entry.name, entry.load, _origin_of(entry)))
    return found


def _entries() -> Iterable[metadata.EntryPoint]:
    from importlib import metadata  # it takes longer to load than all of crewbus, and not every bus asks

    try:
        return metadata.entry_points(group=GROUP)
    except Exception:  # a distribution's are malformed: read the others' without them
        first: dict[str, metadata.Distribution] = {}
        for distribution in metadata.distributions():
            first.setdefault(_name_of(distribution), distribution)
        return [entry for name, distribution in first.items() for entry in _entries_of(name, distribution)]


def _entries_of(name: str, distribution: metadata.Distribution) -> Iterable[metadata.EntryPoint]:
    try:
        return distribution.entry_points.select(group=GROUP)
    except Exception as error:
        warnings.warn(
            f"the entry points of {name} can't be read, so its plugins are not loaded: "
            f"{type(error).__name__}: {text_of(error)}",
            PluginWarning,
            stacklevel=external_stacklevel(),
        )
        return ()


def _name_of(distribution: metadata.Distribution) -> str:
    try:
        return str(distribution.name)
    except Exception:
        return f"a distribution without a name ({distribution.locate_file('')})"


def local(name: str, known: Iterable[str], named_by: str | None = None) -> Found:
    """The plugin that ``module`` or ``module:attribute`` names, and that is called so; ``known`` is for a hint."""
    return Found(name, functools.partial(_import, name, list(known)), named_by=named_by)


def _import(name: str, known: list[str]) -> Any:
    module, colon, path = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *(path.split(".") if colon else ())]):
        raise PluginError(f"a plugin is named by 'module' or 'module:attribute'{hint(name, known)}")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            import pkgutil  # wanted for this error only

            text = f"no installed plugin is called so, and there is no module {error.name!r}"
            here = [found.name for found in pkgutil.iter_modules(sys.path[:1])]
            raise PluginError(f"{text}{hint(name, [*known, *here])}") from None
        raise
    return functools.reduce(getattr, path.split("."), found) if colon else found


def _origin_of(entry: metadata.EntryPoint) -> Origin:
    """Where ``entry`` stands; nowhere if that distribution's metadata can't be read."""
    try:
        return Origin(entry.dist.name, entry.dist.version) if entry.dist is not None else NOWHERE
    except Exception:
        return NOWHERE


def own_version() -> str | None:
    """The version of crewbus, which is that of its built-in plugins; None where it isn't installed."""
    from importlib import metadata

    try:
        return metadata.version("crewbus")
    except metadata.PackageNotFoundError:
        return None


def version_of(plugin: Any) -> str | None:
    """The ``__version__`` of a module, or of that in which an object's class stands, or of its package."""
    own = plugin if isinstance(plugin, ModuleType) else sys.modules.get(type(plugin).__module__)
    if own is None:
        return None
    package = sys.modules.get(own.__name__.partition(".")[0])
    versions = [vars(module).get("__version__") for module in (own, package) if module is not None]
    return next((version for version in versions if isinstance(version, str)), None)


def whole(plugin: Any) -> Any:
    """``plugin``, unless it is a module that has not come to its end: of it, only some hookimpls would be found."""
    if isinstance(plugin, ModuleType) and getattr(getattr(plugin, "__spec__", None), "_initializing", False):
        raise PluginError("it makes a bus while it is being imported, before its hookimpls are there: make it later")
    return plugin


def named_by(variable: str) -> list[str] | None:
    """The names that an environment variable lists, with commas; None where it is not set, or empty."""
    names = [name.strip() for name in os.environ.get(variable, "").split(",")]
    return [name for name in names if name] or None


def blocked_by_environment(wanted: Collection[str]) -> Mapping[str, str]:
    """The names that ``CREWBUS_BLOCK`` lists, but for those that are ``wanted``, each with the reason to show."""
    return {name: f"blocked by {BLOCK}" for name in named_by(BLOCK) or () if name not in wanted}


def explained(error: BaseException) -> str:
    """Why a plugin could not be loaded, on one line."""
    text = text_of(error)
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
