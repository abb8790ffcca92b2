"""Integrations: a library is patched while at least one bus is served."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from importlib import metadata
from typing import TYPE_CHECKING, ClassVar

from crewbus._util import reentrant_lock
from crewbus.bus import default_bus
from crewbus.exceptions import PluginError, text_of
from crewbus.integration.buses import ServedBuses
from crewbus.integration.contained import Contained
from crewbus.integration.import_hook import ImportHook
from crewbus.plugins import Requirement, hookimpl

if TYPE_CHECKING:
    from crewbus.bus import Bus

Patch = Callable[[ExitStack], object]


class Integration:
    """Patches a library when the first bus is served, and restores it after the last one.

    The integration never imports the library, which may take seconds: it patches the library once the application has
    imported it.

    ``name`` is the library's name in messages, ``module`` is the module that users import, ``requires`` is the
    requirement in the metadata of the distribution ``by`` that contains the integration. Register the function that
    patches the library with `when_imported`.
    """

    def __init__(self, name: str, *, module: str, requires: str, by: str) -> None:
        self.name = name
        self.module = module
        self.requires = requires
        self.by = by
        self._requirement = Requirement.parse(requires)
        self._patch: Patch | None = None
        self._lock = reentrant_lock()
        self._served = ServedBuses()
        self._undo: ExitStack | None = None
        """Restores the library; None while it is not patched."""
        self._import_hook = ImportHook(module, self._library_imported)

    def when_imported(self, patch: Patch) -> Patch:
        """Register ``patch(undo)``, which patches the imported library; usable as a decorator.

        ``undo`` is a `contextlib.ExitStack`. Push onto it what reverts each change: it is unwound after the last bus,
        or when ``patch`` fails.
        """
        self._patch = patch
        return patch

    # Which buses

    @property
    def buses(self) -> list[Bus]:
        """The open buses that are served: the one of the latest `install` first, those that loaded the plugin last."""
        return self._served.open()

    def bus_in_scope(self) -> Bus | None:
        """The bus that the library's work here belongs to; None if no bus is served.

        It is the first served one among the bus of the call in scope, of the callbacks in this context, and of the run
        in scope; otherwise the first of `buses`.
        """
        return self._served.in_scope()

    def install(self, bus: Bus | None = None) -> None:
        """Serve ``bus``, by default the process's default bus. Installing it again has no effect.

        Raises `PluginError` if the installed version of the library is not supported, or if patching fails; if the
        library is imported later and patching fails, the import raises it.
        """
        self._serve(bus if bus is not None else default_bus(), installed=True)

    def serve(self, bus: Bus) -> None:
        """Serve a bus that loaded the plugin: as `install`, but installed buses take precedence."""
        self._serve(bus, installed=False)

    def uninstall(self, bus: Bus | None = None) -> None:
        """Stop serving ``bus``, by default every bus; after the last one the library is restored."""
        with self._lock:
            self._served.remove(bus)
            if not self._served.open():
                self._restore()

    def contained(self, action: str) -> Contained:
        """A context manager for the integration's own code: it logs an exception, and the library continues.

        The log message says that ``action`` failed, as in "reporting a call". `RecordingError` and `ReplayMismatch`
        propagate, because hiding them would hide lost data; so does a BaseException such as `Cancelled` or `Suspended`.
        """
        return Contained(f"{self.by}: {action} failed; {self.name} continues")

    # Patching

    def _serve(self, bus: Bus, *, installed: bool) -> None:
        self._check_version()
        imported = self._import_hook.module_imported()
        with self._lock:
            if imported:
                self._apply()
            self._served.add(bus, installed=installed)
        if not imported:
            try:
                self._import_hook.register()
            except PluginError:  # another thread imported it meanwhile
                self.uninstall(bus)
                raise

    def _check_version(self) -> None:
        name = self._requirement.name
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise PluginError(
                f"{self.by} needs {self.requires}, which is not installed: {self._install_command}"
            ) from None
        if self._requirement.problem(found) is not None:
            raise PluginError(f"{self.by} supports {self.requires}; found {name} {found}: {self._install_command}")

    @property
    def _install_command(self) -> str:
        return f"pip install -U '{self.requires}'"

    def _library_imported(self) -> None:
        with self._lock:
            if self._served.open():
                self._apply()

    def _apply(self) -> None:
        if self._undo is not None:
            return
        if self._patch is None:
            raise PluginError(f"{self.by} registered no function with when_imported")
        with ExitStack() as undo:
            try:
                self._patch(undo)
            except Exception as error:
                raise PluginError(
                    f"{self.by} cannot patch this version of {self.name}: {type(error).__name__}: {text_of(error)}: "
                    f"pip install -U {self.by}, and {self._install_command}"
                ) from error
            self._undo = undo.pop_all()

    def _restore(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.close()


class IntegrationPlugin:
    """The plugin of an integration: serves each bus that loads it, until that bus closes.

    The entry point names a subclass that says which integration: ``class ParrotPlugin(IntegrationPlugin, of=parrot)``.
    """

    _integration: ClassVar[Integration]

    def __init_subclass__(cls, *, of: Integration) -> None:
        cls._integration = of

    @hookimpl
    def crewbus_configure(self, bus: Bus) -> None:
        """Serve the bus."""
        self._integration.serve(bus)

    @hookimpl
    def crewbus_close(self, bus: Bus) -> None:
        """Stop serving the bus."""
        self._integration.uninstall(bus)
