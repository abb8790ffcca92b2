"""Plugins: found, validated, registered, isolated."""

from crewbus.plugins.commands import Commands
from crewbus.plugins.discovery import PLUGINS, Origin, blocked_by_environment, names_in
from crewbus.plugins.failure import Failure
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
from crewbus.plugins.loading import Loader, PluginSelection
from crewbus.plugins.manager import PluginManager
from crewbus.plugins.markers import hookimpl, hookspec
from crewbus.plugins.requirements import Requirement, parse_requirements
from crewbus.plugins.status import PluginInfo
from crewbus.plugins.subset import HookSubset

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
