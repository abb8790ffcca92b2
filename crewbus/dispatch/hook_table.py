"""The hot hooks of a bus: flattened at each change of its plugins, and called without pluggy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from crewbus._util import raise_first
from crewbus.dispatch.redaction import Redaction
from crewbus.dispatch.scope_hook import ScopeHook
from crewbus.exceptions import RecordingError
from crewbus.plugins import Function, HookOwner, OwnedFunction, chain, flatten, guarded_call, is_watched, owned
from crewbus.scopes import Numbers, Run, nearest, scope_var

if TYPE_CHECKING:
    from crewbus.dispatch.faults import FaultReporter
    from crewbus.events import Envelope
    from crewbus.plugins import PluginManager
    from crewbus.scopes import Scope

HOT: Final = ("crewbus_emit", "crewbus_record", "crewbus_stream_chunk", "crewbus_current_run")
"""The hooks that are flattened into tuples of functions; `crewbus_redact` and `crewbus_scope` become chains."""


class HookTable:
    """What a bus calls for each emission, besides handlers and callbacks."""

    def __init__(self, bus: Any, plugins: PluginManager, faults: FaultReporter) -> None:
        self._bus = bus
        self._plugins = plugins
        self._faults = faults
        self.observers: tuple[tuple[Function, HookOwner], ...] = ()
        """The functions that observe every event."""
        self.recorders: tuple[Function, ...] = ()
        """The functions that record."""
        self.routers: tuple[OwnedFunction, ...] = ()
        """The functions that route every frame."""
        self.transports = False
        """Whether one of the routers also gets frames while no stream is attached."""
        self.redaction = Redaction(bus)
        self.scope_hook = ScopeHook(bus, plugins, faults)
        self.here: Callable[[], Scope | None] = lambda: None
        """What is current in this context, of whichever bus."""
        self._watched = False
        """Whether `crewbus_record` must be called through pluggy."""

    def rebuild(self) -> None:
        """Read the hooks again from pluggy; called after each change of the plugins or of the monitors."""
        plugins = self._plugins
        hook = plugins.hook
        flat = {name: flatten(getattr(hook, name), plugins.watched) for name in HOT}
        self.observers = owned(hook.crewbus_emit, flat["crewbus_emit"])
        self.recorders = flat["crewbus_record"]
        self._watched = is_watched(plugins, hook.crewbus_record)
        self.routers = owned(hook.crewbus_stream_chunk, flat["crewbus_stream_chunk"])
        self.transports = any(
            not getattr(impl.function, "attached_streams_only", False)
            for impl in hook.crewbus_stream_chunk.get_hookimpls()
        )
        self.redaction.chain = tuple(chain(plugins, "crewbus_redact"))
        self.scope_hook.rebuild()
        self.here = self._finder(owned(hook.crewbus_current_run, flat["crewbus_current_run"]))

    # The current scope

    def _finder(self, functions: tuple[tuple[Function, HookOwner], ...]) -> Callable[[], Any]:
        if not functions:
            return lambda: None
        direct = getattr(functions[0][0], "direct", None)
        if len(functions) == 1 and direct is not None:
            return cast("Callable[[], Any]", direct)
        return lambda: self._first(functions)

    def _first(self, functions: tuple[tuple[Function, HookOwner], ...]) -> Scope | None:
        escaped: list[BaseException] | None = None
        found = None
        for function, blame in functions:
            try:
                found = _checked_run(function(self._bus))
            except BaseException as error:
                escaped = self._faults.contain(blame, error, None, escaped)
            if found is not None:
                break
        if escaped is not None:
            raise_first(escaped)
        here = nearest(self._bus, scope_var.get())  # a call or attempt in the run that was found
        return here if here is not None and here.run is found else found

    # Recording

    def record(self, run: Run, envelope: Envelope) -> None:
        """Have the recorders write an event; called under the lock. What they raise reaches the emitter."""
        if self._watched:
            self._record_through_pluggy(run, envelope)
            return
        failures, taken = list[BaseException](), False
        for function in self.recorders:
            try:
                function(self._bus, run, envelope)
                taken = True
            except BaseException as error:
                failures.append(error)
        if failures or not taken:
            self._not_recorded(run, envelope, taken, failures)

    def _record_through_pluggy(self, run: Run, envelope: Envelope) -> None:
        failures = list[BaseException]()
        with guarded_call(envelope) as call:
            try:
                self._plugins.hook.crewbus_record(bus=self._bus, run=run, envelope=envelope)
            except Exception as error:  # of a wrapper
                failures.append(call.error or error)
            except BaseException as error:
                failures.append(error)
        failures += [call.error] if call.error is not None else []
        if failures or not call.returned:
            self._not_recorded(run, envelope, call.returned > 0, failures)

    @staticmethod
    def _not_recorded(run: Run, envelope: Envelope, taken: bool, failures: list[BaseException]) -> None:
        """Give the number back, unless another recorder has it, and raise the failure to the emitter."""
        if not taken:
            # Every emission of a recorded tree passes under its lock, so the number is still the last.
            run.tree.numbers = Numbers(envelope.seq)
        if not failures:
            failures.append(RecordingError(f"run {run.id} is recorded, but no plugin records any more"))
        raise_first(failures)


def _checked_run(found: Any) -> Run | None:
    if found is None or isinstance(found, Run):
        return found
    raise TypeError(f"crewbus_current_run returns a Run or None; got {found!r}")
