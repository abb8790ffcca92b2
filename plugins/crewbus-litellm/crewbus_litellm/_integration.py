"""The integration: litellm's functions are led through here while there is a bus to tell."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Final

from crewbus import Bus
from crewbus.integration import Integration, IntegrationPlugin


def _place(undo: ExitStack) -> None:
    importlib.import_module("crewbus_litellm._seams").place(undo)  # which tells through what is made here


integration: Final = Integration(
    "litellm", module="litellm", requires="litellm>=1.106,<1.110", by="crewbus-litellm", place=_place
)
contained: Final = integration.contained


def install(bus: Bus | None = None) -> None:
    """Tell ``bus``, by default the process's default one, of each call of litellm's. Doing so again does nothing more.

    Where several buses are served, a call is told to that of the call, the callbacks or the run in scope, and outside
    any of theirs to that of the latest ``install()``. litellm is not imported: it is followed from when it is.
    Raises `crewbus.PluginError` if the installed litellm is not of a supported version.
    """
    integration.install(bus)


def uninstall(bus: Bus | None = None) -> None:
    """Tell ``bus`` no more, by default none any more; with the last one litellm is put back as it was.

    Streams that are under way are followed to their end all the same.
    """
    integration.uninstall(bus)


class LitellmPlugin(IntegrationPlugin, of=integration):
    """The plugin of the entry point ``litellm``: serves the buses that load it until they are closed."""
