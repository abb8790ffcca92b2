"""The installation: litellm's functions are led through here while there is a bus to tell."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from typing import Final

import crewbus
from crewbus import Bus, PluginError, PluginWarning
from crewbus_litellm._arrival import Arrival
from crewbus_litellm._gate import Gate
from crewbus_litellm._served import served
from crewbus_litellm._version import check_version


class Installation:
    """Puts the gates up when the first bus comes, as soon as litellm has been imported; takes them away with the last.

    litellm takes seconds to import: it is never imported for our sake.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._gates: tuple[Gate, ...] = ()
        """Those that are placed."""
        self._arrival: Arrival | None = None

    def serve(self, bus: Bus, asked: bool) -> None:
        """Have ``bus`` told of litellm's calls. Raises `crewbus.PluginError` where litellm is not supported."""
        check_version()
        with self._lock:
            if not self._gates and self._arrival is None:
                self._begin()
            served.add(bus, asked)

    def leave(self, bus: Bus | None) -> None:
        """Tell ``bus``, or all buses, no more; if there is none left, put everything back."""
        with self._lock:
            served.remove(bus)
            if not served.buses:
                self._end()

    def _begin(self) -> None:
        if "litellm" in sys.modules:
            importlib.import_module("litellm")  # waits for a thread that is just importing it
            self._place_gates()
        else:
            self._arrival = Arrival("litellm", self._arrived)
            self._arrival.wait()

    def _end(self) -> None:
        gates, self._gates = self._gates, ()
        for gate in reversed(gates):
            gate.remove()
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.stop()

    def _arrived(self) -> None:
        with self._lock:
            if self._arrival is None:
                return
            self._arrival = None
            try:
                self._place_gates()
            except PluginError as error:  # whoever imports litellm is not to blame
                warnings.warn(str(error), PluginWarning, stacklevel=2)

    def _place_gates(self) -> None:
        from crewbus_litellm._seams import gates

        for gate in gates():
            gate.place()
        self._gates = gates()


_installation: Final = Installation()


def install(bus: Bus | None = None) -> None:
    """Tell ``bus``, by default the process's default one, of each call of litellm's. Doing so again does nothing more.

    Where several buses are served, a call is told to that of the call, the callbacks or the run in scope, and outside
    any of theirs to that of the latest ``install()``. litellm is not imported: it is followed from when it is.
    Raises `crewbus.PluginError` if the installed litellm is not of a supported version.
    """
    _installation.serve(bus if bus is not None else crewbus.default_bus(), asked=True)


def uninstall(bus: Bus | None = None) -> None:
    """Tell ``bus`` no more, by default none any more; with the last one litellm is put back as it was.

    Streams that are under way are followed to their end all the same.
    """
    _installation.leave(bus)


class LitellmPlugin:
    """The plugin of the entry point ``litellm``: serves the buses that load it until they are closed."""

    @crewbus.hookimpl
    def crewbus_configure(self, bus: Bus) -> None:
        """Install for a bus."""
        _installation.serve(bus, asked=False)

    @crewbus.hookimpl
    def crewbus_close(self, bus: Bus) -> None:
        """Uninstall for it."""
        _installation.leave(bus)
