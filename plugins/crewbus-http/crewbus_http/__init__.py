"""Runs of crewbus over HTTP, for browsers and other languages."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from crewbus_http.app import app
    from crewbus_http.service import RunService

__all__ = ["RunService", "app"]

# Loaded at first use: every bus loads the plugin, and few of them serve.
_HOME: Final = {"RunService": "service", "app": "app"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
