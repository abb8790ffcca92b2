"""crewbus for crewAI: each kickoff is a run, and what crewAI emits, streams and keeps is that run's."""

from typing import TYPE_CHECKING, Any

from crewbus_crewai._integration import CrewaiPlugin, install, uninstall

if TYPE_CHECKING:
    from crewbus_crewai._checkpoint import CrewbusProvider, EntitiesSaved

__all__ = ["CrewaiPlugin", "CrewbusProvider", "EntitiesSaved", "install", "uninstall"]


def __getattr__(name: str) -> Any:
    # They are classes of crewAI's, which is not imported until somebody needs it.
    if name in {"CrewbusProvider", "EntitiesSaved"}:
        from crewbus_crewai import _checkpoint

        return getattr(_checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
