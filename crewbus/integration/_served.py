"""The buses that are told of what a library does, and which of them something is told to."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

from crewbus.scopes.callbacks import callbacks_in_context
from crewbus.scopes.current import current_call, current_run

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus


class _Service(NamedTuple):
    bus: weakref.ref[Bus]
    asked: bool
    """Whether somebody called ``install()`` for it; else it loaded the plugin."""


class Served:
    """The buses that are told, the one first that gets what belongs to none in particular.

    Looking is for any thread; whoever adds and removes sees to it that others do not meanwhile.
    """

    def __init__(self) -> None:
        self._services: tuple[_Service, ...] = ()

    @property
    def buses(self) -> list[Bus]:
        """Those that are open: that of the latest ``install()`` first, and after those that loaded the plugin."""
        found = (service.bus() for service in self._services)
        return [bus for bus in found if bus is not None and not bus.closed]

    def add(self, bus: Bus, asked: bool) -> None:
        """Have ``bus`` told from now on; adding it again does nothing, unless ``asked`` is new."""
        known = next((service for service in self._services if service.bus() is bus), None)
        if known is not None and known.asked >= asked:
            return
        others = tuple(s for s in self._services if s.bus() not in {bus, None})
        service = _Service(weakref.ref(bus), asked)
        self._services = (service, *others) if asked else (*others, service)

    def remove(self, bus: Bus | None) -> None:
        """Have ``bus``, or all, told no more."""
        self._services = tuple(s for s in self._services if bus is not None and s.bus() not in {bus, None})

    def in_scope(self) -> Bus | None:
        """The bus that what happens here belongs to; None if no bus is served."""
        buses = self.buses
        if len(buses) < 2:
            return buses[0] if buses else None
        near = (current_call(), *reversed(callbacks_in_context()), current_run())
        return next((one.bus for one in near if one is not None and one.bus in buses), buses[0])
