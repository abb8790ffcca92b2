"""The plugin, and installation without it."""

from __future__ import annotations

from contextlib import ExitStack

from crewbus import Bus
from crewbus.integration import IntegrationPlugin
from crewbus_crewai.integration import integration


@integration.when_imported
def _patch(undo: ExitStack) -> None:
    from crewbus_crewai.patched.patches import apply_patches  # imports crewAI

    apply_patches(undo)


def install(bus: Bus | None = None) -> None:
    """Report crewAI's work to ``bus``, by default the process's default bus. Idempotent.

    If several buses are served, a kickoff belongs to the bus of the call, the callbacks or the run in scope; outside
    any of them, to the bus of the latest ``install()``. crewAI is not imported: it is patched once the application
    imports it. Raises `crewbus.PluginError` if the installed version of crewAI is not supported.
    """
    integration.install(bus)


def uninstall(bus: Bus | None = None) -> None:
    """Stop reporting to ``bus``, by default to every bus; after the last one crewAI is restored."""
    integration.uninstall(bus)


class CrewaiPlugin(IntegrationPlugin, of=integration):
    """The plugin of the entry point ``crewai``: serves each bus that loads it, until that bus closes."""
