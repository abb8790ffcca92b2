"""The integration: a library is changed while there is a bus to tell."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from importlib import metadata
from typing import TYPE_CHECKING, ClassVar

from crewbus._util.warn import external_stacklevel
from crewbus.bus.default import default_bus
from crewbus.exceptions import PluginError, PluginWarning, text_of
from crewbus.integration._arrival import Arrival
from crewbus.integration._contained import Contained
from crewbus.integration._served import Served
from crewbus.plugins.markers import hookimpl
from crewbus.plugins.requirements import Requirement

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus

Place = Callable[[ExitStack], object]


class Integration:
    """Changes a library when the first bus comes, as soon as it has been imported; puts it back with the last.

    A library may take seconds to import: it is never imported for our sake.

    ``name`` is what people call it, ``module`` what they import, ``requires`` what they install, as in the metadata of
    the distribution ``by`` that brings the integration. ``place(undo)`` makes the changes, and leaves with ``undo``, a
    `contextlib.ExitStack`, what takes each of them back: called the latest first, with the last bus or when ``place``
    fails.
    """

    def __init__(self, name: str, *, module: str, requires: str, by: str, place: Place) -> None:
        self.name = name
        self.module = module
        self.requires = requires
        self.by = by
        self._requirement = Requirement.parse(requires)
        self._change = place
        self._lock = threading.RLock()
        self._served = Served()
        self._undo: ExitStack | None = None
        """What puts the library back; None: it is as it was."""
        self._arrival: Arrival | None = None

    # Which buses

    @property
    def buses(self) -> list[Bus]:
        """Those that are served: that of the latest `install` first, and after those that loaded the plugin."""
        return self._served.buses

    def bus_in_scope(self) -> Bus | None:
        """The bus that what happens here is told to; None if no bus is served.

        That of the call in scope, of the callbacks in this context, or of the run in scope, whichever is served; else
        the first of `buses`.
        """
        return self._served.in_scope()

    def install(self, bus: Bus | None = None) -> None:
        """Serve ``bus``, by default the process's default one. Doing so again does nothing more.

        Raises `PluginError` if what is installed of the library is not supported, or is not as ``place`` knows it.
        """
        self._serve(bus if bus is not None else default_bus(), asked=True)

    def uninstall(self, bus: Bus | None = None) -> None:
        """Serve ``bus`` no more, by default none any more; with the last one the library is put back as it was."""
        with self._lock:
            self._served.remove(bus)
            if not self._served.buses:
                self._end()

    def contained(self, what: str) -> Contained:
        """For a ``with`` around what tells of the library's work: an exception there is logged, and the work goes on.

        ``what`` failed then, as in "telling of a call". Not contained are a `RecordingError` and a `ReplayMismatch`,
        since hiding them would be a lie, and what is no `Exception`, such as `Cancelled`.
        """
        return Contained(f"{self.by}: {what} failed; {self.name} goes on")

    # The changes

    def _serve(self, bus: Bus, asked: bool) -> None:
        self._check_version()
        is_there = sys.modules.get(self.module) is not None
        if is_there:  # or a thread is just importing it, which may want the lock
            importlib.import_module(self.module)
        with self._lock:
            if self._undo is None and self._arrival is None:
                self._place() if is_there else self._wait()
            self._served.add(bus, asked)
            arrival = self._arrival
        if arrival is not None and sys.modules.get(self.module) is not None:  # it came before anybody waited for it
            importlib.import_module(self.module)
            arrival.arrived()

    def _check_version(self) -> None:
        name, hint = self._requirement.name, self._hint
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise PluginError(f"{self.by} needs {self.requires}; none is installed: {hint}") from None
        if self._requirement.problem(found) is not None:
            raise PluginError(f"{self.by} supports {self.requires}; found {name} {found}: {hint}")

    @property
    def _hint(self) -> str:
        return f"pip install -U '{self.requires}'"

    def _place(self) -> None:
        with ExitStack() as undo:
            try:
                self._change(undo)
            except Exception as error:
                raise PluginError(
                    f"{self.name} is not as {self.by} knows it: {type(error).__name__}: {text_of(error)}: "
                    f"pip install -U {self.by}, and {self._hint}"
                ) from error
            self._undo = undo.pop_all()

    def _wait(self) -> None:
        self._arrival = Arrival(self.module, self._arrived)
        self._arrival.wait()

    def _arrived(self) -> None:
        with self._lock:
            if self._arrival is None:  # nobody waits any more
                return
            self._arrival = None
            try:
                self._place()
            except PluginError as error:  # whoever imports the library is not to blame
                warnings.warn(str(error), PluginWarning, stacklevel=external_stacklevel())

    def _end(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.stop()
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.close()


class IntegrationPlugin:
    """The plugin of an integration: serves each bus that loads it until that is closed.

    The entry point names a subclass, which says whose it is: ``class ParrotPlugin(IntegrationPlugin, of=parrot)``.
    """

    _integration: ClassVar[Integration]

    def __init_subclass__(cls, *, of: Integration) -> None:
        cls._integration = of

    @hookimpl
    def crewbus_configure(self, bus: Bus) -> None:
        """Serve a bus."""
        self._integration._serve(bus, asked=False)

    @hookimpl
    def crewbus_close(self, bus: Bus) -> None:
        """Serve it no more."""
        self._integration.uninstall(bus)
