"""The provider of checkpoints, under the name that applications import."""

from crewbus_crewai.patched.checkpoints import CrewbusProvider, EntitiesSaved

__all__ = ["CrewbusProvider", "EntitiesSaved"]
