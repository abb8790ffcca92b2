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
from crewbus.scopes import Numbers, Phase, threads

if TYPE_CHECKING:
    from crewbus.dispatch.delivery import Deliverer
    from crewbus.dispatch.faults import FaultReporter
    from crewbus.dispatch.unscoped import Unscoped
    from crewbus.plugins import OwnedFunction
    from crewbus.scopes import Attempt, Host, Run, Scope

now: Final = time.time
UNRECORDED: Final = -1
"""In place of a number in the record: the record does not get the event, which takes the number of the one before."""
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
        if tree.stopped and not phase and run is not None and run.discards():
            return None
        envelope: Envelope | None = None
        deferred = escaped = None
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
                    seq = replayed_seq
                    made: Any = None
                    if seq is None:  # in a loop no interrupt comes before the number is bound, as it may after a call
                        for seq in tree.numbers:  # noqa: B007
                            break
                    elif seq < 0:
                        seq = tree.renumber() - 1
                    try:
                        made = Envelope(
                            event,
                            run.id if run is not None else None,
                            seq,  # type: ignore[arg-type]
                            scope.start_id,
                            now(),
                            source,
                            scope.attempt_number,
                            replayed_seq is not None,
                        )
                        if self.record is not None and replayed_seq is None and run is not None:
                            self.record(run, made)
                    except BaseException as error:
                        if replayed_seq is not None or not self._is_recorded(run, seq, made, error):
                            raise
                        escaped = [error]
                    envelope, function = made, None
                    routers = plan.routers if run is not None and replayed_seq is None else plan.pushes
                    try:
                        if phase == 1:
                            scope.transition(phase, made)
                        if self.faults.has_reported:
                            routers = tuple(one for one in routers if not is_reported(one[1]))
                        for function, blame in routers:
                            try:
                                function(self.bus, run, made)
                            except BaseException as error:
                                escaped = self._missed(function, blame, run, made, error, escaped)
                        if phase == 2:
                            scope.transition(phase, made)
                        if call is not None and call.callbacks and (not call.ended or phase):
                            call.delivering.add(made)
                    except BaseException as error:
                        escaped = self._complete(scope, phase, made, routers, function, [*(escaped or ()), error])
            finally:
                state.lock = outer
                try:  # noqa: SIM105 - this costs nothing
                    lock.release()
                except RuntimeError:  # an interrupt ended the wait for the lock
                    pass
                deferred, state.deferred = state.deferred, None
            if envelope is None:
                return self._without_place(plan, scope, event, source, phase)
            if call is not None and call.callbacks:
                self.deliverer.deliver_in_call(plan, run, call, envelope)
            elif plan.has_inline_listeners:
                self.deliverer.deliver(plan, run, envelope)
            if escaped is not None:
                raise_first(escaped)
            return envelope
        finally:
            try:
                if call is not None and envelope is not None:
                    if call.delivering:
                        call.delivering.discard(envelope)  # here: an interrupt may keep a function from beginning
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
        for attempt in scope.attempts if plan.frame else ():
            if attempt.failed:
                return False
            attempt.streamed = True
        return True

    # An interrupt, which is what a signal handler raises, may come anywhere

    def _is_recorded(self, run: Run | None, seq: Any, made: Envelope | None, error: BaseException) -> bool:  # noqa: ARG002
        """Whether the event ``seq`` is recorded although ``error`` came. If not, the next one takes its number.

        ``made``: its envelope, if that was made, and so given to the recorders.
        """
        if run is not None:
            run.tree.give_back(seq, run.tree.numbers)
        return False

    def _missed(
        self,
        function: Any,
        blame: Any,
        run: Run | None,
        envelope: Envelope,
        error: BaseException,
        escaped: list[BaseException] | None,
    ) -> list[BaseException] | None:
        """Contain what a router raised. One that knows what it has done does the rest."""
        repeat = getattr(function, "repeat", None)
        if repeat is not None:
            repeat(run, envelope)
        return self.faults.contain(blame, error, envelope, escaped)

    def _complete(
        self,
        scope: Scope,
        phase: Phase,
        envelope: Envelope,
        routers: tuple[OwnedFunction, ...],
        last: Any,
        errors: list[BaseException],
    ) -> list[BaseException]:
        """Do what an interrupt left undone of a recorded event's commit: the streams get what the record has.

        ``last``: the router that was called last.
        """
        if phase == Phase.START:
            scope.transition(phase, envelope)
        called = [function for function, _ in routers].index(last) + 1 if last is not None else 0
        for function, blame in routers[called:]:
            try:
                function(self.bus, scope.run, envelope)
            except BaseException as error:
                errors = self._missed(function, blame, scope.run, envelope, error, errors) or errors
        if phase == Phase.END:
            scope.transition(phase, envelope)
        if scope.call is not None and scope.call.callbacks and (phase or not scope.call.ended):
            scope.call.delivering.add(envelope)
        return errors

    def _without_place(self, plan: Plan, scope: Scope, event: Any, source: Any, phase: Phase) -> Envelope | None:
        """An event whose run or call has ended, or whose attempt has failed."""
        run, call = scope.run, scope.call
        if run is not None and run.ended and not phase and run.is_stopped() and run.is_own_work():
            run.discards()
            return None  # what a stopped run still emits after its end is discarded
        if run is not None and run.ended and run is not scope and (phase or (call is not None and not call.ended)):
            scope.leave_run(self.host.outside)
            return scope.tree.lane.commit(plan, scope, event, source, phase)
        if phase:
            return None
        if (run is not None and run.ended) or (run is None and call is not None and call.ended):
            return self.unscoped.emit(plan, run, event, source)
        self.unscoped.warn_lost_attempt(event)
        return None
