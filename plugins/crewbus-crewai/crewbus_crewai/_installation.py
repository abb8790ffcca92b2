"""The installation: crewAI is changed while there is a bus to tell."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Final

import crewbus
from crewbus import Bus, PluginError, PluginWarning
from crewbus_crewai._arrival import Arrival
from crewbus_crewai._served import served
from crewbus_crewai._version import check_version, not_known

if TYPE_CHECKING:
    from crewbus_crewai._patch import Patches


class Installation:
    """Changes crewAI when the first bus comes, as soon as it has been imported; puts it back with the last.

    crewAI takes seconds to import: it is never imported for our sake.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._patches: Patches | None = None
        """What is changed; None: nothing."""
        self._arrival: Arrival | None = None

    def serve(self, bus: Bus, asked: bool) -> None:
        """Have ``bus`` told of what crewAI does. Raises `crewbus.PluginError` where crewAI is not supported."""
        check_version()
        with self._lock:
            if self._patches is None and self._arrival is None:
                self._begin()
            served.add(bus, asked)

    def leave(self, bus: Bus | None) -> None:
        """Tell ``bus``, or all buses, no more; if there is none left, put everything back."""
        with self._lock:
            served.remove(bus)
            if not served.buses:
                self._end()

    def _begin(self) -> None:
        if "crewai" in sys.modules:
            importlib.import_module("crewai")  # waits for a thread that is just importing it
            self._place()
        else:
            self._arrival = Arrival("crewai", self._arrived)
            self._arrival.wait()

    def _end(self) -> None:
        patches, self._patches = self._patches, None
        if patches is not None:
            patches.remove()
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.stop()

    def _arrived(self) -> None:
        with self._lock:
            if self._arrival is None:
                return
            self._arrival = None
            try:
                self._place()
            except PluginError as error:  # whoever imports crewAI is not to blame
                warnings.warn(str(error), PluginWarning, stacklevel=2)

    def _place(self) -> None:
        try:
            seams = importlib.import_module("crewbus_crewai._seams")
        except (ImportError, AttributeError) as error:
            raise not_known(error) from error
        self._patches = seams.place()


_installation: Final = Installation()


def install(bus: Bus | None = None) -> None:
    """Tell ``bus``, by default the process's default one, of what crewAI does. Doing so again does nothing more.

    Where several buses are served, a kickoff belongs to that of the run in scope, and outside any of theirs to that of
    the latest ``install()``. crewAI is not imported: it is changed when somebody imports it.
    Raises `crewbus.PluginError` if the installed crewAI is not of a supported version.
    """
    _installation.serve(bus if bus is not None else crewbus.default_bus(), asked=True)


def uninstall(bus: Bus | None = None) -> None:
    """Tell ``bus`` no more, by default none any more; with the last one crewAI is put back as it was."""
    _installation.leave(bus)


class CrewaiPlugin:
    """The plugin of the entry point ``crewai``: serves the buses that load it until they are closed."""

    @crewbus.hookimpl
    def crewbus_configure(self, bus: Bus) -> None:
        """Install for a bus."""
        _installation.serve(bus, asked=False)

    @crewbus.hookimpl
    def crewbus_close(self, bus: Bus) -> None:
        """Uninstall for it."""
        _installation.leave(bus)
