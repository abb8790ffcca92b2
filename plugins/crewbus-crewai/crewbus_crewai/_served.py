"""The buses that are told of what crewAI does, and which of them something is told to."""

from __future__ import annotations

import threading
import weakref
from typing import Final, NamedTuple

import crewbus
from crewbus import Bus, Run


class _Service(NamedTuple):
    bus: weakref.ref[Bus]
    asked: bool
    """Whether somebody called ``install()`` for it; else it loaded the plugin."""


class Served:
    """The buses that are told, the one first that gets what belongs to none in particular."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._services: tuple[_Service, ...] = ()

    @property
    def buses(self) -> list[Bus]:
        """Those that are open: that of the latest ``install()`` first, and after those that loaded the plugin."""
        found = (service.bus() for service in self._services)
        return [bus for bus in found if bus is not None and not bus.closed]

    def add(self, bus: Bus, asked: bool) -> None:
        """Have ``bus`` told from now on; adding it again does nothing, unless ``asked`` is new."""
        with self._lock:
            known = next((service for service in self._services if service.bus() is bus), None)
            if known is not None and known.asked >= asked:
                return
            others = tuple(s for s in self._services if s.bus() not in {bus, None})
            service = _Service(weakref.ref(bus), asked)
            self._services = (service, *others) if asked else (*others, service)

    def remove(self, bus: Bus | None) -> None:
        """Have ``bus``, or all, told no more."""
        with self._lock:
            self._services = tuple(s for s in self._services if bus is not None and s.bus() not in {bus, None})

    def bus_in_scope(self) -> Bus | None:
        """The bus that what happens here belongs to; None if no bus is served.

        That of the run in scope, where it is served, else the first.
        """
        buses = self.buses
        if len(buses) < 2:
            return buses[0] if buses else None
        run = crewbus.current_run()
        return run.bus if run is not None and run.bus in buses else buses[0]


served: Final = Served()


def live_run(bus: Bus) -> Run | None:
    """The innermost run in scope that goes on: what crewAI does behind a run's back may outlast it."""
    run = crewbus.current_run(bus)
    while run is not None and run.ended:
        run = run.parent
    return run
