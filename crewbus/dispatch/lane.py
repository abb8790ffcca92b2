"""Lanes: the one way in which an event is committed under its tree's lock."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from crewbus._util import call_all, raise_first
from crewbus.dispatch.faults import is_reported
from crewbus.dispatch.plan import Plan
from crewbus.events import Envelope
from crewbus.exceptions import CrewbusError
from crewbus.scopes import Numbers, Phase, threads

if TYPE_CHECKING:
    from crewbus.dispatch.delivery import Deliverer
    from crewbus.dispatch.faults import FaultReporter
    from crewbus.dispatch.unscoped import Unscoped
    from crewbus.scopes import Attempt, Host, Run, Scope

now: Final = time.time
unscoped_numbers: Final = Numbers()
"""The numbers of what is emitted outside any run: per process."""


class OrderedLane:
    """Lock, number, record, route, release, deliver: so that the record and the streams have the numbers' order.

    ``record`` is what writes an event of a recorded run, or None; the lanes of durability add it.
    """

    def __init__(
        self,
        bus: Any,
        host: Host,
        deliverer: Deliverer,
        faults: FaultReporter,
        unscoped: Unscoped,
        record: Callable[[Run, Envelope], None] | None = None,
    ) -> None:
        self.bus = bus
        self.host = host
        self.deliverer = deliverer
        self.faults = faults
        self.unscoped = unscoped
        self.record = record

    def commit(
        self,
        plan: Plan,
        scope: Scope,
        event: Any,
        source: Any = None,
        phase: Phase = Phase.BODY,
        replayed_seq: int | None = None,
    ) -> Envelope | None:
        """Commit one event of ``scope``; see `Lane`. Returns None for one that has no place any more."""
        state = threads.state
        outer = state.lock
        if outer is not None and state.holds_lock():  # a finaliser, a signal handler or a hook emits meanwhile
            self.faults.defer(partial(self.commit, plan, scope, event, source, phase, replayed_seq))
            return None
        run, call, tree = scope.run, scope.call, scope.tree
        lock = tree.lock
        if tree.cancelled and not phase and run is not None:
            run.check()
        envelope = deferred = escaped = None
        try:
            try:
                state.lock = lock
                lock.acquire()  # inside, since an interrupt may follow at once
                if (
                    (run is not None and run.ended and not (phase == 1 and run is scope))
                    or (run is None and not phase and call is not None and call.ended)
                    or ((phase or scope.attempts) and not self._accepted(plan, scope, phase))
                ):
                    pass
                else:
                    if phase == 2:
                        scope.close_gate()
                    envelope = Envelope(
                        event,
                        run.id if run is not None else None,
                        next(tree.numbers) if replayed_seq is None else replayed_seq,
                        scope.start_id,
                        now(),
                        source,
                        scope.attempt_number,
                        replayed_seq is not None,
                    )
                    if self.record is not None and replayed_seq is None:
                        self._record(run, envelope)
                    if phase == 1:
                        scope.transition(phase, envelope)
                    routers = plan.routers if run is not None and replayed_seq is None else plan.pushes
                    if self.faults.has_reported:
                        routers = tuple(one for one in routers if not is_reported(one[1]))
                    for function, blame in routers:
                        try:
                            function(self.bus, run, envelope)
                        except BaseException as error:
                            escaped = self.faults.contain(blame, error, envelope, escaped)
                    if phase == 2:
                        scope.transition(phase, envelope)
                    if call is not None and (not call.ended or phase):
                        call.delivering.add(envelope)
            finally:
                state.lock = outer
                try:  # noqa: SIM105 - this costs nothing
                    lock.release()
                except RuntimeError:  # an interrupt ended the wait for the lock
                    pass
                deferred, state.deferred = state.deferred, None
            if envelope is None:
                return self._without_place(plan, scope, event, source, phase)
            if call is not None:
                self.deliverer.deliver_in_call(plan, run, call, envelope)
            elif plan.has_inline_listeners:
                self.deliverer.deliver(plan, run, envelope)
            if escaped is not None:
                raise_first(escaped)
            return envelope
        finally:
            try:
                if call is not None and envelope is not None:
                    call.delivering.discard(envelope)  # here, since an interrupt may keep a function from beginning
                    if call.last is not None:
                        self.deliverer.deliver_last(call)
            finally:
                if deferred is not None:
                    call_all(deferred)

    def kept(self, attempt: Attempt) -> None:
        """Nothing to do: only a resumed run may have matched something of the attempt."""

    @staticmethod
    def _accepted(plan: Plan, scope: Scope, phase: Phase) -> bool:
        if phase:
            return scope.accepts(phase)
        return not plan.frame or not any(attempt.failed for attempt in scope.attempts)

    def _record(self, run: Run | None, envelope: Envelope) -> None:
        if run is None or self.record is None:
            return
        try:
            self.record(run, envelope)
        except CrewbusError:
            raise
        except BaseException:  # a signal handler may raise anything, anywhere
            self.resync_sequence(run)
            raise

    def resync_sequence(self, run: Run) -> None:
        """Continue the numbers of a recorded run after an interrupt that may have hit anywhere."""

    def _without_place(self, plan: Plan, scope: Scope, event: Any, source: Any, phase: Phase) -> Envelope | None:
        """An event whose run or call has ended, or whose attempt has failed."""
        run, call = scope.run, scope.call
        if run is not None and run.ended and not phase and run.is_cancelled() and run.is_own_work():
            run.check()
            return None  # what a cancelled run still emits after its end is discarded
        if run is not None and run.ended and run is not scope and (phase or (call is not None and not call.ended)):
            scope.leave_run(self.host.outside)
            return scope.tree.lane.commit(plan, scope, event, source, phase)
        if phase:
            return None
        if (run is not None and run.ended) or (run is None and call is not None and call.ended):
            return self.unscoped.emit(plan, run, event, source)
        self.unscoped.warn_lost_attempt(event)
        return None
