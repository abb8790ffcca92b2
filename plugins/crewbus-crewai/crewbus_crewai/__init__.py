"""crewbus for crewAI: each kickoff is a run, to which crewAI's events, streams and checkpoints belong."""

from typing import TYPE_CHECKING, Any

from crewbus_crewai.plugin import CrewaiPlugin, install, uninstall

if TYPE_CHECKING:
    from crewbus_crewai.checkpoints import CrewbusProvider, EntitiesSaved

__all__ = ["CrewaiPlugin", "CrewbusProvider", "EntitiesSaved", "install", "uninstall"]


def __getattr__(name: str) -> Any:
    # Their module imports crewAI, so it is loaded at first use.
    if name in {"CrewbusProvider", "EntitiesSaved"}:
        from crewbus_crewai import checkpoints

        return getattr(checkpoints, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
