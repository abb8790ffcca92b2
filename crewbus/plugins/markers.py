"""The markers of hook specifications and hook implementations, and what a plugin declares of itself."""

from __future__ import annotations

from typing import Any, Final

import pluggy

PROJECT: Final = "crewbus"

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)


def declares_required(plugin: Any) -> bool:
    """Whether no work is to be done without the plugin: it has ``crewbus_required = True``."""
    return _declares(plugin, "crewbus_required")


def declares_best_effort(plugin: Any) -> bool:
    """Whether closing the bus is not to depend on the plugin: it has ``crewbus_best_effort = True``."""
    return _declares(plugin, "crewbus_best_effort")


def _declares(plugin: Any, attribute: str) -> bool:
    try:
        return getattr(plugin, attribute, False) is True
    except Exception:  # of its own __getattr__
        return False
