"""The buses that an integration serves, and which of them an emission belongs to."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

from crewbus.scopes import callbacks_in_context, current_call, current_run

if TYPE_CHECKING:
    from crewbus.bus import Bus


class _ServedBus(NamedTuple):
    bus: weakref.ref[Bus]
    installed: bool
    """Whether ``install()`` was called for the bus; otherwise the bus loaded the plugin."""


class ServedBuses:
    """The served buses, in the order in which they are chosen. Does not keep a bus alive.

    Any thread may read; the caller must serialise `add` and `remove`.
    """

    def __init__(self) -> None:
        self._served: tuple[_ServedBus, ...] = ()

    def open(self) -> list[Bus]:
        """The open buses: the one of the latest ``install()`` first, those that loaded the plugin last."""
        found = (served.bus() for served in self._served)
        return [bus for bus in found if bus is not None and not bus.closed]

    def add(self, bus: Bus, *, installed: bool) -> None:
        """Serve ``bus``. Adding it again has no effect, except that an installed bus moves ahead of plugin buses."""
        known = next((served for served in self._served if served.bus() is bus), None)
        if known is not None and known.installed >= installed:
            return
        others = tuple(served for served in self._served if served.bus() not in {bus, None})
        added = _ServedBus(weakref.ref(bus), installed)
        self._served = (added, *others) if installed else (*others, added)

    def remove(self, bus: Bus | None) -> None:
        """Stop serving ``bus``, or every bus if it is None."""
        self._served = tuple(served for served in self._served if bus is not None and served.bus() not in {bus, None})

    def in_scope(self) -> Bus | None:
        """The bus that an emission here belongs to; None if no bus is served."""
        buses = self.open()
        if len(buses) < 2:
            return buses[0] if buses else None
        scopes = (current_call(), *reversed(callbacks_in_context()), current_run())
        return next((bus for scope in scopes for bus in buses if scope is not None and scope.bus is bus), buses[0])
