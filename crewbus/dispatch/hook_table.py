"""The hot hooks of a bus: flattened anew at each change of its plugins, and called without pluggy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, Final, cast

from crewbus.dispatch.faults import Faults
from crewbus.dispatch.subscriptions import Plan
from crewbus.events import (
    AttemptStarted,
    CallCancelled,
    CallEnded,
    CallFailed,
    CallFinished,
    CallStarted,
    CheckpointSaved,
    EntitySaved,
    Envelope,
    Retracted,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunForked,
    RunResumed,
    RunStarted,
    StepEnded,
    StepFailed,
    StepStarted,
    event_type_of,
)
from crewbus.exceptions import CrewbusError, RecordingError, RedactionError, text_of
from crewbus.plugins.flatten import Function, HookOwner, chain, flatten, is_watched, owned
from crewbus.plugins.isolation import guarded_call
from crewbus.scopes.current import scope as _in_scope
from crewbus.scopes.run import Run
from crewbus.scopes.scope import Scope

HOT: Final = (
    "crewbus_emit",
    "crewbus_record",
    "crewbus_stream_chunk",
    "crewbus_current_run",
    "crewbus_redact",
)
"""The hooks that are flattened; all others are called through pluggy."""

ROUTER: Final = "run_scope"
"""The plugin whose `crewbus_stream_chunk` serves attached streams only; any other's is a transport."""


MARKS: Final = {
    RunStarted: (),
    RunEnded: (),
    CallStarted: (),
    CallEnded: (),
    AttemptStarted: (),
    Retracted: ("since", "parents"),
    StepStarted: ("ordinal", "inline", "identity"),
    StepEnded: (),
    CheckpointSaved: ("name", "entities", "automatic"),
    EntitySaved: ("name", "type", "version"),
    RunResumed: ("at", "epoch", "checkpoint"),
    RunForked: ("of", "at"),
}
"""The event types that others rely on: a redactor may change what they say, but not what they are, nor these fields."""
_WITHHELD: Final = "(withheld: a redactor failed)"


class Hooks(Faults):
    """Whom a bus calls for each emission, besides handlers."""

    def __init__(self) -> None:
        super().__init__()
        self._recorders: tuple[Function, ...] = ()
        self._record: Callable[[Run, Envelope], None] = self._record_flat
        self._scope: Callable[[], Any] = lambda: None
        """What is in scope here, of whichever bus, or None: a run; or a call or attempt, as its tree's mode tells."""

    def _reflatten(self) -> None:
        """Take the hooks anew from pluggy; called after each change of the plugins or of who watches them."""
        with self._registry:
            pm = self.plugins
            flat = {name: flatten(getattr(pm.hook, name), pm.watched) for name in HOT}
            self._observers = owned(pm.hook.crewbus_emit, flat["crewbus_emit"])
            self._recorders = flat["crewbus_record"]
            self._record = self._record_watched if is_watched(pm, pm.hook.crewbus_record) else self._record_flat
            self._routers = owned(pm.hook.crewbus_stream_chunk, flat["crewbus_stream_chunk"])
            self._transports = any(impl.plugin_name != ROUTER for impl in pm.hook.crewbus_stream_chunk.get_hookimpls())
            self._redactors = tuple(chain(pm, "crewbus_redact"))
            self._scope = self._scoping(owned(pm.hook.crewbus_current_run, flat["crewbus_current_run"]))
            self._forget_plans()

    def _scoping(self, functions: tuple[tuple[Function, HookOwner], ...]) -> Callable[[], Any]:
        if not functions:
            return lambda: None
        # An implementation may carry a cheaper equal of itself, which is used where it stands alone.
        direct = getattr(functions[0][0], "direct", None)
        if len(functions) == 1 and direct is not None:
            return cast("Callable[[], Any]", direct)

        def first() -> Scope | None:
            escaped: BaseException | None = None
            found = None
            for function, blame in functions:
                try:
                    found = _run_or_none(function(self))
                except BaseException as error:
                    escaped = self._contain(blame, error, None, escaped)
                if found is not None:
                    break
            if escaped is not None:
                try:
                    raise escaped
                finally:
                    del escaped
            here = self._own(_in_scope.get())  # a call or attempt in the run that was found
            return here if here is not None and here.run is found else found

        return first

    def _own(self, scope: Scope | None) -> Scope | None:
        while scope is not None and scope.bus is not self:
            scope = scope.outer
        return scope

    def _record_flat(self, run: Run, envelope: Envelope) -> None:
        failure: BaseException | None = None
        taken = False
        for function in self._recorders:
            try:
                function(self, run, envelope)
                taken = True
            except BaseException as error:
                failure = failure or error
        if failure is not None or not taken:
            self._not_recorded(run, envelope, taken, failure or _nobody_records(run))

    def _record_watched(self, run: Run, envelope: Envelope) -> None:
        """The same through pluggy's own call."""
        failure: BaseException | None = None
        with guarded_call(envelope) as call:
            try:
                self.plugins.hook.crewbus_record(bus=self, run=run, envelope=envelope)
            except Exception as error:  # of a wrapper
                failure = call.error or error
            except BaseException as error:
                failure = error
        failure = failure or call.error
        taken = call.returned > 0
        if failure is not None or not taken:
            self._not_recorded(run, envelope, taken, failure or _nobody_records(run))

    def _not_recorded(self, run: Run, envelope: Envelope, taken: bool, failure: BaseException) -> None:
        """Give the number back, unless another recorder has it, and let the failure reach the emitter."""
        if not taken:
            # Every emission of a recorded tree passes under its lock, so the number is still the last.
            run.tree.numbers = count(envelope.seq)
            if not isinstance(failure, CrewbusError):
                self._renumber(run)
        try:
            raise failure
        finally:
            del failure  # or it, its traceback and this frame would hold each other

    def _renumber(self, run: Run) -> None:
        """Have the numbers of a recorded run go on after what a signal handler may have interrupted anywhere.

        `Recording` knows from where.
        """
        raise NotImplementedError

    def _redact(self, run: Run | None, event: Any) -> tuple[Any, Plan]:
        for name, function in self._redactors:
            try:
                replaced = function(self, run, event)
                if replaced is not None:
                    event = _replacement(event, replaced)
            except Exception as error:
                raise RedactionError(
                    f"the plugin {name!r} failed to redact {type(event).__qualname__} "
                    f"({type(error).__name__}: {text_of(error)}): it was not emitted"
                ) from error
        return event, self._plan_of(event)


def _nobody_records(run: Run) -> RecordingError:
    return RecordingError(f"nothing records any more, and run {run.id} was to be recorded: no plugin takes its events")


def _run_or_none(found: Any) -> Run | None:
    if found is None or isinstance(found, Run):
        return found
    raise TypeError(f"crewbus_current_run answers with a Run or None; got {found!r}")


def _replacement(event: Any, replaced: Any) -> Any:
    event_type_of(type(replaced))
    for kind, fixed in MARKS.items():
        if not isinstance(event, kind):
            continue
        if type(replaced) is not type(event):
            raise TypeError(
                f"what others rely on must stay {type(event).__qualname__}; got {type(replaced).__qualname__}"
            )
        if any(getattr(replaced, name) != getattr(event, name) for name in fixed):
            raise TypeError(f"of {type(event).__qualname__} these must stay as they are: {', '.join(fixed)}")
    return replaced


def withheld(event: Any) -> Any:
    """``event``, which ends something, without what a redactor failed to judge."""
    if isinstance(event, RunFailed | CallFailed):
        return type(event)(event.error, _WITHHELD)
    if isinstance(event, StepFailed):
        return StepFailed(event.name, event.error, _WITHHELD)
    if isinstance(event, Retracted):
        return Retracted(event.since, _WITHHELD, event.parents)
    return type(event)() if isinstance(event, RunCancelled | CallCancelled | CallFinished) else event
