"""The hot path: an event is stamped, recorded, streamed and delivered to what listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crewbus._util import raise_first
from crewbus.dispatch.lane import UNRECORDED, OrderedLane, now, unscoped_numbers
from crewbus.dispatch.redaction import withheld
from crewbus.events import Chunk, Envelope, StepFinished
from crewbus.exceptions import RedactionError
from crewbus.scopes import Host, Phase, Scope, Tree, innermost, nearest

if TYPE_CHECKING:
    from crewbus.dispatch.delivery import Deliverer
    from crewbus.dispatch.faults import FaultReporter
    from crewbus.dispatch.hook_table import HookTable
    from crewbus.dispatch.plan import Plan
    from crewbus.dispatch.subscriptions import Subscriptions
    from crewbus.dispatch.unscoped import Unscoped


class Dispatcher:
    """Carries events from where they are emitted to what listens. Its state is flat, since it is read all the time."""

    closed = False

    def __init__(
        self,
        host: Host,
        hooks: HookTable,
        subscriptions: Subscriptions,
        deliverer: Deliverer,
        faults: FaultReporter,
        unscoped: Unscoped,
    ) -> None:
        self._hooks = hooks
        self._host = host
        self._subscriptions = subscriptions
        self._unscoped = unscoped
        self._plans = subscriptions.plans
        self._no_effect = subscriptions.no_effect
        self._deliver = deliverer.deliver
        self._redact: Callable[[Any, Any], Any] | None = None
        self._here = hooks.here
        host.outside = Tree(OrderedLane(self, host, deliverer, faults, unscoped))
        host.outside.numbers = unscoped_numbers
        unscoped.nowhere = Scope(host)
        host.current_scope, host.own = self._current_scope, self._own
        host.emit_in, host.transition = self._emit_in, self._transition

    def _refresh(self) -> None:
        """Read the hooks again: plugins or subscriptions changed."""
        self._here = self._hooks.here
        self._host.around = self._hooks.scope_hook.asks()
        self._redact = self._hooks.redaction.apply if self._hooks.redaction.chain else None
        self._subscriptions.forget_plans()

    def emit(self, event: Any, source: Any = None) -> Envelope | None:
        """Emit ``event`` in the current run, or outside any, and return its envelope.

        ``source`` names the emitter. Returns None outside a run if nothing listens. Raises `UnregisteredEventError`,
        `BusClosedError`, `RecordingError` if the run is recorded and this could not be, `RedactionError`, and
        `Cancelled` or `Suspended` if the run was stopped.
        """
        find = self._here  # Python 3.11 calls a local name at half the price of an instance's attribute
        here: Any = find()
        kind = type(event)
        if here is None and kind in self._no_effect:
            return None
        try:
            plan = self._plans[kind]
        except KeyError:
            plan = self._subscriptions.plan_for(kind)
        if here is not None and here.found_by is self:
            numbers = here.tree.numbers  # read before the gate: if that is closed later, these end
            if plan.plain and here.gate.free:
                for number in numbers:  # noqa: B007 - no interrupt comes before it is bound, as it may after a call
                    break
                try:
                    void = numbers.ended and here.tree.is_void(number, numbers)
                    envelope = Envelope(event, here.run.id, number, here.start_id, now(), source, here.attempt_number)
                except BaseException:  # an interrupt
                    here.tree.give_back(number, numbers)
                    raise
                if void:
                    return here.tree.lane.commit(plan, here, event, source)  # type: ignore[no-any-return]
                if plan.has_inline_listeners:
                    self._deliver(plan, here, envelope)
                return envelope
            if not plan.redacted:
                return here.tree.lane.commit(plan, here, event, source)  # type: ignore[no-any-return]
        if here is not None and here.found_by is None:
            here = innermost()
        return self._emit_slowly(plan, nearest(self, here), event, source)

    def chunk(self, text: str, kind: str = "text", source: Any = None) -> Envelope | None:
        """Emit a `Chunk` in the current run: it reaches the streams of that run and of the runs around it."""
        event = Chunk(text, kind)
        find = self._here
        here: Any = find()
        if here is not None and here.found_by is self and not here.gate.free:
            plan = self._plans.get(Chunk)
            if plan is not None and not plan.redacted:
                return here.tree.lane.commit(plan, here, event, source)  # type: ignore[no-any-return]
        return self.emit(event, source)

    def _emit_in(self, scope: Scope, event: Any, source: Any = None) -> Envelope | None:
        """Emit ``event`` in ``scope``, whatever is current."""
        plan = self._plans.get(type(event)) or self._subscriptions.plan_for(type(event))
        if not plan.redacted:
            return scope.tree.lane.commit(plan, scope, event, source)
        return self._emit_slowly(plan, scope, event, source)

    def _emit_slowly(self, plan: Plan, scope: Scope | None, event: Any, source: Any) -> Envelope | None:
        """Redact ``event`` first if a plugin wants to; then commit it, in ``scope`` or outside any run."""
        run = scope.run if scope is not None else None
        if self._redact is not None:
            if run is not None and run.tree.stopped and run.discards():
                return None
            event = self._redact(run, event)
            plan = self._subscriptions.plan_of(event)
        if scope is None:
            return self._unscoped.emit(plan, None, event, source)
        return scope.tree.lane.commit(plan, scope, event, source)

    def _transition(self, scope: Scope, event: Any, phase: Phase, recorded: bool = True) -> None:
        """Emit the event that starts or ends a call, an attempt or a step. See `Transition`."""
        if self.closed and phase == Phase.END:
            scope.abandon()
            return
        plan = self._subscriptions.plan_of(event)
        failures = list[BaseException]()
        if self._redact is not None:
            try:
                event = self._redact(scope.run, event)
            except RedactionError as error:
                if phase != Phase.END or isinstance(event, StepFinished):
                    raise  # a result that may not be seen is no result: the step fails
                event = withheld(event)  # it ends all the same
                failures.append(error)
            plan = self._subscriptions.plan_of(event)
        source = scope.call.source if scope.call is not None else None
        scope.tree.lane.commit(plan, scope, event, source, phase, None if recorded else UNRECORDED)
        raise_first(failures)

    # What scopes ask for

    def _current_scope(self) -> Any:
        """The innermost scope of this bus in this context."""
        return nearest(self, self._here())

    def _own(self, scope: Scope | None) -> Any:
        """``scope``, or the nearest one around it that belongs to this bus."""
        return nearest(self, scope)
