"""Plugins: found, validated, registered, isolated."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names
from crewbus.plugins.flattened import (
    Function,
    HookOwner,
    OwnedFunction,
    chain,
    flatten,
    is_watched,
    owned,
    wrappers_of,
)
from crewbus.plugins.isolation import CONTAINED, guarded_call, raising_deferred
from crewbus.plugins.manager import PluginManager
from crewbus.plugins.markers import declares_best_effort, declares_required, hookimpl, hookspec
from crewbus.plugins.origin import Origin
from crewbus.plugins.subset import HookSubset

if TYPE_CHECKING:
    from crewbus.plugins.commands import Commands
    from crewbus.plugins.discovery import PLUGINS, blocked_by_environment, names_in
    from crewbus.plugins.failure import Failure
    from crewbus.plugins.info import PluginInfo
    from crewbus.plugins.loading import Loader, PluginSelection
    from crewbus.plugins.requirements import Requirement, parse_requirements

__all__ = [
    "CONTAINED",
    "PLUGINS",
    "Commands",
    "Failure",
    "Function",
    "HookOwner",
    "HookSubset",
    "Loader",
    "Origin",
    "OwnedFunction",
    "PluginInfo",
    "PluginManager",
    "PluginSelection",
    "Requirement",
    "blocked_by_environment",
    "chain",
    "declares_best_effort",
    "declares_required",
    "flatten",
    "guarded_call",
    "hookimpl",
    "hookspec",
    "is_watched",
    "names_in",
    "owned",
    "parse_requirements",
    "raising_deferred",
    "wrappers_of",
]

# Loaded at first use: what is needed when a bus is made, and what few programs need.
__getattr__ = lazy_names(
    __name__,
    {
        "commands": "Commands",
        "discovery": "PLUGINS blocked_by_environment names_in",
        "failure": "Failure",
        "info": "PluginInfo",
        "loading": "Loader PluginSelection",
        "requirements": "Requirement parse_requirements",
    },
)
