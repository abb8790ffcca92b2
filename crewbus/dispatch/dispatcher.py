"""The hot path: an event is stamped, recorded, streamed and delivered to whoever asked for it."""

from __future__ import annotations

import functools
import threading
import time
import warnings
from contextlib import suppress
from itertools import count
from typing import Any, Final

from crewbus._util.warn import external_stacklevel
from crewbus.dispatch.faults import DELIVERING, INSIDE
from crewbus.dispatch.hook_table import Hooks, withheld
from crewbus.dispatch.subscriptions import Plan
from crewbus.events import Chunk, Envelope, RunCancelled, RunEnded, RunFailed
from crewbus.exceptions import (
    BusClosedError,
    CrewbusError,
    EventTypeError,
    UnscopedError,
    UnscopedWarning,
)
from crewbus.plugins.flatten import OwnedFunction
from crewbus.scopes.run import Run
from crewbus.scopes.scope import OPENS, WITHIN, Scope
from crewbus.scopes.tree import FREE, ORDERED

now: Final = time.time
unscoped_numbers: Final = count()
"""The numbers of what is emitted outside any run: per process."""
LOST_ATTEMPT: Final = "in an attempt that has failed, and discarded"


class Dispatch(Hooks):
    """Carries what is emitted to whoever asked for it."""

    def __init__(self, unscoped: str) -> None:
        super().__init__()
        if unscoped not in ("warn", "raise", "ignore"):
            raise EventTypeError(f"unscoped={unscoped!r}: choose 'warn', 'raise' or 'ignore'")
        self.unscoped = unscoped
        self._outside = threading.RLock()
        """Held while what is emitted outside any run is numbered for background handlers."""

    # Emission

    def emit(self, event: Any, source: Any = None) -> Envelope | None:
        """Emit ``event`` in the run in scope, or outside any, and return its envelope.

        ``source`` says who emits. Returns None outside a run where nobody listens. Raises
        `UnregisteredEventError`, `BusClosedError`, `RecordingError` if the run is recorded and this could
        not be, `RedactionError`, and `Cancelled` if the run was cancelled.
        """
        scope = self._scope  # Python 3.11 calls a local name at half the price of an instance's attribute
        here: Run | None = scope()
        kind = type(event)
        if here is None and kind in self._silent:
            return None
        try:
            plan = self._plans[kind]
        except KeyError:
            plan = self._plan(kind)
        if here is None:
            if plan.silent:
                return None
        elif not plan.careful and here.bus is self:
            mode = here.tree.mode
            if mode == ORDERED:
                return self._emit_in_order(plan, here, event, source)
            if mode == FREE and not here.ended and not here.attempts:
                envelope = Envelope(
                    event, here.id, next(here.tree.numbers), here.start_id, now(), source, here.attempt_number
                )
                if plan.heard:
                    self._deliver(plan, here, envelope)
                return envelope
        return self._emit_with_care(plan, self._own(here), event, source)

    def chunk(self, text: str, kind: str = "text", source: Any = None) -> Envelope | None:
        """Emit a `Chunk` in the run in scope: it reaches the streams of that run and of the runs around it."""
        event = Chunk(text, kind)
        scope = self._scope
        here: Run | None = scope()
        if here is not None and here.tree.mode == ORDERED and here.bus is self:
            plan = self._plans.get(Chunk)
            if plan is not None and not plan.careful:
                return self._emit_in_order(plan, here, event, source)
        return self.emit(event, source=source)

    def _emit_in(self, scope: Any, event: Any, source: Any) -> Envelope | None:
        try:  # as `_plan_of`, without the call
            plan = self._plans[type(event)]
        except KeyError:
            plan = self._plan(type(event))
        if scope.tree.mode == ORDERED and not plan.careful:
            return self._emit_in_order(plan, scope, event, source)
        return self._emit_with_care(plan, scope, event, source)

    def _open(self, run: Run, event: Any, told: int | None) -> None:
        """Emit the event that opens a run; ``told``: its number in the record that a resumed run repeats."""
        plan = self._plan_of(event)
        if self._redactors:
            event, plan = self._redact(run, event)
        if told is not None:
            self._tell_again(plan, run, run, event, None, told, OPENS)
            return
        self._emit_in_order(plan, run, event, None, opens=True)
        self._wait_if_sync(run)

    def _emit_with_care(self, plan: Plan, scope: Scope | None, event: Any, source: Any) -> Envelope | None:
        run = scope.run if scope is not None else None
        if run is not None and run.tree.cancelled:
            run.check()
            if run.ended and run.is_cancelled():
                return None  # what a cancelled run still emits after its end is discarded
        if self._redactors:
            event, plan = self._redact(run, event)
        if run is not None and run.tree.log is not None and run.tree.log.careful and not run.ended:
            assert scope is not None
            return self._emit_recorded(plan, scope, run, event, source)
        if scope is not None and scope is not run:
            return self._emit_in_scope(plan, scope, event, source, WITHIN)
        if run is None or run.ended:
            return self._emit_unscoped(plan, run, event, source)
        if run.tree.mode == FREE and not (plan.ordered or run.attempts):
            envelope = Envelope(event, run.id, next(run.tree.numbers), run.start_id, now(), source, run.attempt_number)
            self._deliver(plan, run, envelope)
            return envelope
        return self._emit_in_order(plan, run, event, source)

    def _emit_unscoped(self, plan: Plan, run: Run | None, event: Any, source: Any) -> Envelope | None:
        if plan.silent and run is None:
            return None
        if plan.frame or run is not None:
            self._warn_astray(event, f"in a run that {_standing(run)}" if run is not None else "outside any run")
        envelope = self._stamp_outside(plan, None, event, source)
        self._deliver(plan, None, envelope)
        for worker in plan.queues:
            worker.wait_for_room()
        return envelope

    def _warn_astray(self, event: Any, where: str) -> None:
        # `where` names no run: Python keeps each text for each place that was ever warned of.
        if self.unscoped == "ignore":
            return
        message = f"{type(event).__name__} emitted {where}: it reaches no run's stream"
        if self.unscoped == "raise":
            raise UnscopedError(message)
        warnings.warn(message, UnscopedWarning, stacklevel=external_stacklevel())

    def _stamp_outside(self, plan: Plan, scope: Scope | None, event: Any, source: Any) -> Envelope:
        """Number an event outside any run; in the order of the numbers it is queued for background handlers."""
        parent, attempt = (scope.start_id, scope.attempt_number) if scope is not None else (None, 1)
        if not plan.queues:
            return Envelope(event, None, next(unscoped_numbers), parent, now(), source, attempt)
        with self._outside:
            envelope = Envelope(event, None, next(unscoped_numbers), parent, now(), source, attempt)
            for worker in plan.queues:
                worker.push(self, None, envelope)
        return envelope

    def _emit_in_order(self, plan: Plan, run: Run, event: Any, source: Any, opens: bool = False) -> Envelope | None:
        """Number, record and stream an event under the root's lock; deliver it after.

        ``opens``: whether it is the start of the run, which all else in the run has for its parent.
        """
        tree = run.tree
        after = escaped = None
        try:
            lock = tree.lock
            try:  # as `with lock`, at half the price; inside, since an interrupt may follow the acquiring at once
                lock.acquire()
                if tree.busy:
                    # This thread is already inside, and a finaliser, a signal handler or a hook emits.
                    tree.defer(functools.partial(self._emit_in_order, plan, run, event, source, opens))
                    return None
                if run.ended or (run.attempts and not run.admits(plan.frame, WITHIN)):
                    envelope = None
                else:
                    tree.busy = True
                    try:
                        if tree.recorded:
                            envelope = self._number_recorded(run, run, event, source)
                        else:
                            envelope = Envelope(
                                event, run.id, next(tree.numbers), run.start_id, now(), source, run.attempt_number
                            )
                        if opens:
                            run.turn(OPENS, envelope)
                        for function, blame in plan.routers:
                            try:
                                function(self, run, envelope)
                            except BaseException as error:
                                escaped = self._contain(blame, error, envelope, escaped)
                    finally:
                        tree.busy = False
                        if tree.after is not None:
                            after, tree.after = tree.after, None
            finally:
                try:  # noqa: SIM105 - costs nothing so
                    lock.release()
                except RuntimeError:  # an interrupt ended the wait for it
                    pass
            if envelope is None and run.ended:
                return self._emit_unscoped(plan, run, event, source)
            if envelope is None:
                self._warn_astray(event, LOST_ATTEMPT)
                return None
            if plan.heard:
                self._deliver(plan, run, envelope)
            if escaped is not None:
                raise escaped
            return envelope
        finally:
            del escaped
            if after is not None:
                for call in after:
                    call()

    def _number_recorded(self, run: Run, scope: Scope, event: Any, source: Any) -> Envelope:
        """Number and record an event; called under the lock."""
        try:
            envelope = Envelope(
                event, run.id, next(run.tree.numbers), scope.start_id, now(), source, scope.attempt_number
            )
            self._record(run, envelope)
            return envelope
        except CrewbusError:
            raise
        except BaseException:  # a signal handler may raise whatever it likes, wherever it likes
            self._renumber(run)
            raise

    def _deliver(self, plan: Plan, run: Run | None, envelope: Envelope) -> None:
        """Call observers and handlers; what one raises stays with it."""
        escaped: BaseException | None = None
        for observer, blame in self._observers:
            try:
                observer(self, run, envelope)
            except BaseException as error:
                escaped = self._contain(blame, error, envelope, escaped)
        for handler in plan.handlers:
            try:
                handler(envelope)
            except BaseException as error:
                escaped = self._contain(handler, error, envelope, escaped)
        if escaped is not None:
            try:
                raise escaped
            finally:
                del escaped  # or it, its traceback and this frame would hold each other

    # The end of a run

    def _end(self, run: Run, event: RunEnded) -> None:
        """Number, record and stream a run's terminal event, so that nothing of the run comes after it."""
        tree = run.tree
        failure: BaseException | None = None
        with suppress(BusClosedError):
            if self._redactors:
                try:
                    event, _ = self._redact(run, event)
                except BaseException as error:
                    event, failure = withheld(event), error
        if tree.log is not None and tree.log.replay is not None and self._end_again(run, event):
            return
        after = None
        recorded = told = True
        try:
            with tree.lock:
                if tree.busy:
                    tree.defer(functools.partial(self._end, run, event))
                    return
                if run.ended:
                    return
                tree.busy = True
                envelope = Envelope(event, run.id, -1, run.start_id, now())
                try:
                    if not tree.recorded:
                        envelope.seq = next(tree.numbers)
                    else:
                        try:
                            envelope = self._number_recorded(run, run, event, None)
                        except BaseException as error:
                            # Its streams end all the same, but no handler is told of what the record lacks,
                            # and its number goes to the next event.
                            recorded, failure = False, error
                    told = recorded and not self.closed
                    routers = self._plan_of(event).routers if told else self._routers
                    failure = self._route(routers, run, envelope, failure)
                finally:
                    tree.busy = False
                    run.retire(state_after(event))
                    after, tree.after = tree.after, None
            if told:
                self._deliver(self._plan_of(event), run, envelope)
                self._wait_if_sync(run)
        finally:
            if run.ended:
                self._dismiss(run)
            for call in after or ():
                call()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or it, its traceback and this frame would hold each other

    def _route(
        self, routers: tuple[OwnedFunction, ...], run: Run, envelope: Envelope, escaped: BaseException | None
    ) -> BaseException | None:
        for function, blame in routers:
            try:
                function(self, run, envelope)
            except BaseException as error:
                escaped = self._contain(blame, error, envelope, escaped)
        return escaped

    def _emit_in_scope(self, plan: Plan, scope: Scope, event: Any, source: Any, turn: int) -> Envelope | None:
        """Emit an event of a call or an attempt: `Calls` knows how."""
        raise NotImplementedError

    def _emit_recorded(self, plan: Plan, scope: Scope, run: Run, event: Any, source: Any) -> Envelope | None:
        """Emit an event of a run that waits for the disk, or that was resumed: `Steps` knows how."""
        raise NotImplementedError

    def _tell_again(
        self, plan: Plan, scope: Scope, run: Run, event: Any, source: Any, seq: int = -1, turn: int = WITHIN
    ) -> Envelope:
        """Tell of an event that a resumed run repeats: `Calls` knows how."""
        raise NotImplementedError

    def _end_again(self, run: Run, event: RunEnded) -> bool:
        """End a run that a resumed one repeats; returns whether it is one: `Calls` knows how."""
        raise NotImplementedError

    def _wait_written(self, run: Run) -> None:
        """Return when all that was emitted in a recorded run is on disk: `Recording` knows how."""
        raise NotImplementedError

    def _wait_if_sync(self, run: Run) -> None:
        if run.tree.log is not None and run.tree.log.sync:
            self._wait_written(run)

    def _dismiss(self, run: Run) -> None:
        """Forget a run that has ended: `Runs` knows which are live."""
        raise NotImplementedError


def state_after(event: RunEnded) -> str:
    """The state of a run that ended with ``event``."""
    if isinstance(event, RunFailed):
        return "failed"
    return "cancelled" if isinstance(event, RunCancelled) else "finished"


def _standing(run: Run) -> str:
    return "has not started" if run.state == "new" else f"has ended ({run.state})"


INSIDE.update(function.__code__ for function in (Dispatch._emit_in_order, Dispatch._end))
DELIVERING.add(Dispatch._deliver.__code__)
