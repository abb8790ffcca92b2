"""The integration: crewAI is changed while there is a bus to tell."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Final

from crewbus import Bus
from crewbus.integration import Integration, IntegrationPlugin


def _place(undo: ExitStack) -> None:
    importlib.import_module("crewbus_crewai._seams").place(undo)  # which imports crewAI


# 1.15.23 is the first that wraps the calls of each class of models in one place, where we lead them.
integration: Final = Integration(
    "crewAI", module="crewai", requires="crewai>=1.15.23,<1.16", by="crewbus-crewai", place=_place
)
contained: Final = integration.contained


def install(bus: Bus | None = None) -> None:
    """Tell ``bus``, by default the process's default one, of what crewAI does. Doing so again does nothing more.

    Where several buses are served, a kickoff belongs to that of the call, the callbacks or the run in scope, and
    outside any of theirs to that of the latest ``install()``. crewAI is not imported: it is changed when somebody
    imports it.
    Raises `crewbus.PluginError` if the installed crewAI is not of a supported version.
    """
    integration.install(bus)


def uninstall(bus: Bus | None = None) -> None:
    """Tell ``bus`` no more, by default none any more; with the last one crewAI is put back as it was."""
    integration.uninstall(bus)


class CrewaiPlugin(IntegrationPlugin, of=integration):
    """The plugin of the entry point ``crewai``: serves the buses that load it until they are closed."""
