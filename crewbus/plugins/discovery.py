"""Plugins found by name: the entry points of installed distributions, and modules."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crewbus._util import did_you_mean, external_stacklevel
from crewbus.exceptions import PluginError, PluginWarning, text_of
from crewbus.plugins.origin import UNKNOWN, Origin

if TYPE_CHECKING:
    from importlib import metadata

GROUP: Final = "crewbus"
"""The entry point group of plugins."""

BLOCK: Final = "CREWBUS_BLOCK"
"""The environment variable with the names of the plugins to leave out."""
PLUGINS: Final = "CREWBUS_PLUGINS"
"""The environment variable with the names of modules to load as plugins, besides installed ones."""


class Candidate(NamedTuple):
    """A plugin that was found by name and is not imported yet."""

    name: str
    load: Callable[[], Any]
    origin: Origin = UNKNOWN
    named_by: str | None = None
    """The environment variable that names it."""


def installed() -> Mapping[str, list[Candidate]]:
    """The plugins of installed distributions, by name; reads the entry points of each distribution."""
    found: dict[str, list[Candidate]] = {}
    for entry in _entry_points():
        found.setdefault(entry.name, []).append(Candidate(entry.name, entry.load, _origin_of(entry)))
    return found


def _entry_points() -> Iterable[metadata.EntryPoint]:
    from importlib import metadata  # it takes longer to load than all of crewbus, and not every bus needs it

    try:
        return metadata.entry_points(group=GROUP)
    except Exception:  # those of one distribution are malformed: read the others one by one
        first: dict[str, metadata.Distribution] = {}
        for distribution in metadata.distributions():
            first.setdefault(_name_of(distribution), distribution)
        return [entry for name, distribution in first.items() for entry in _entry_points_of(name, distribution)]


def _entry_points_of(name: str, distribution: metadata.Distribution) -> Iterable[metadata.EntryPoint]:
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


def _origin_of(entry: metadata.EntryPoint) -> Origin:
    """The distribution of ``entry``, if its metadata can be read."""
    try:
        return Origin(entry.dist.name, entry.dist.version) if entry.dist is not None else UNKNOWN
    except Exception:
        return UNKNOWN


def module_plugin(
    name: str, reference: str | None = None, *, known: Iterable[str] = (), named_by: str | None = None
) -> Candidate:
    """The plugin that ``reference`` (``module`` or ``module:attribute``; by default the name itself) refers to.

    ``known``: names to suggest if there is no such module.
    """
    return Candidate(name, functools.partial(_import, reference or name, list(known)), named_by=named_by)


def _import(reference: str, known: list[str]) -> Any:
    module, colon, path = reference.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *(path.split(".") if colon else ())]):
        raise PluginError(f"a plugin is named by 'module' or 'module:attribute'{did_you_mean(reference, known)}")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise PluginError(_no_such_module(error.name, reference, known)) from None
        raise
    return functools.reduce(getattr, path.split("."), found) if colon else found


def _no_such_module(missing: str, reference: str, known: list[str]) -> str:
    import pkgutil  # only this error needs it

    near = did_you_mean(reference, [*known, *(found.name for found in pkgutil.iter_modules(sys.path[:1]))])
    return f"no installed plugin has this name, and there is no module {missing!r}{near}"


def version_of(plugin: Any) -> str | None:
    """The ``__version__`` of the module that a plugin is, or in which its class is defined, or of its package."""
    module = plugin if isinstance(plugin, ModuleType) else sys.modules.get(type(plugin).__module__)
    if module is None:
        return None
    package = sys.modules.get(module.__name__.partition(".")[0])
    for holder in (module, package):
        try:
            version = getattr(holder, "__version__", None)
        except Exception:  # of a module's __getattr__
            continue
        if isinstance(version, str):
            return version
    return None


def refuse_half_imported(plugin: Any) -> Any:
    """Return ``plugin``; raises `PluginError` for a module that is still being imported: it lacks some hookimpls."""
    if isinstance(plugin, ModuleType) and getattr(getattr(plugin, "__spec__", None), "_initializing", False):
        raise PluginError("it makes a bus while it is being imported, before its hookimpls are there: make it later")
    return plugin


def names_in(variable: str) -> list[str] | None:
    """The comma-separated names in an environment variable; None if it is not set, or empty."""
    names = [name.strip() for name in os.environ.get(variable, "").split(",")]
    return [name for name in names if name] or None


def blocked_by_environment(wanted: Collection[str]) -> Mapping[str, str]:
    """The names in ``CREWBUS_BLOCK``, except those that are ``wanted``, each with the reason to show."""
    return {name: f"blocked by {BLOCK}" for name in names_in(BLOCK) or () if name not in wanted}


def why_not_loaded(error: BaseException) -> str:
    """Why a plugin could not be loaded, on one line."""
    text = text_of(error)
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
