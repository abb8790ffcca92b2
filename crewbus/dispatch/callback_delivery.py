"""Calls on a bus: making them, what is emitted in them, and their callbacks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import attrs

from crewbus._util.callables import is_async, is_text, name_of
from crewbus.dispatch.dispatcher import LOST_ATTEMPT, Dispatch, now, state_after, unscoped_numbers
from crewbus.dispatch.faults import DELIVERING, INSIDE, callers
from crewbus.dispatch.hook_table import withheld
from crewbus.dispatch.subscriptions import Plan
from crewbus.events import Envelope, RunEnded, StepFinished
from crewbus.exceptions import CallbackError, CallError, RedactionError
from crewbus.scopes.call import Call
from crewbus.scopes.callbacks import Callback, Callbacks, Function, callbacks_in_context
from crewbus.scopes.run import Run
from crewbus.scopes.scope import ENDS, OPENS, WITHIN, Attempt, Scope
from crewbus.scopes.tree import Tree

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus


class Emission(NamedTuple):
    """An event that was numbered, and must be told to handlers and callbacks."""

    run: Run | None
    envelope: Envelope
    call: Call | None
    """The call whose callbacks get it."""
    callbacks: tuple[Callback, ...]
    escaped: BaseException | None
    """A BaseException that a router raised."""


class Calls(Dispatch):
    """Carries what is emitted in calls and attempts to whoever asked for it, the call's own callbacks last.

    All of it passes under a lock, the root run's or, outside any run, one of the call's own: so that callbacks get what
    is numbered before the call's terminal event, and nothing after. It is never held while anybody is called.
    """

    def call(
        self, name: str, *, callbacks: Iterable[Function] | None = (), inherit: bool = False, source: Any = None
    ) -> Call:
        """A call of a model or tool, to be entered with ``with``; in the run in scope, or outside any.

        ``callbacks`` are called, plain ones inline and async ones as tasks, with each envelope of this call and no
        other's, until its terminal event; those of `Bus.callbacks` around it are too. ``inherit``: so are those of the
        call around it, for integrations, whose users know nothing of the call that is made on their behalf.
        ``source``: who calls.
        """
        if not is_text(name):
            raise CallError(f"a call has a name, such as its model's; got {name!r}")
        if callable(callbacks):
            raise CallbackError(f"callbacks= takes several: write callbacks=[{name_of(callbacks)}]")
        return Call(cast("Bus", self), name, callbacks or (), inherit, source)

    def callbacks(self, *callbacks: Function) -> Callbacks:
        """Callbacks for all calls that start in the context of a ``with``; nested ones are added."""
        return Callbacks(cast("Bus", self), callbacks)

    @property
    def has_callbacks(self) -> bool:
        """Whether `callbacks` were given for the calls of this bus that start here."""
        return bool(callbacks_in_context(cast("Bus", self)))

    # Callbacks

    def _register_callback(self, scope: Call | Callbacks, given: Any) -> Callback:
        """A callback that is given to ``scope``, as the plugins would have it."""
        if isinstance(given, list | tuple | set):
            raise CallbackError(f"callbacks are given one by one, as bus.callbacks(*several); got {given!r}")
        if not callable(given):
            raise CallbackError(
                f"a callback is a function of one envelope; {given!r} can't be called: give one of its methods"
            )
        taken = self.plugins.hook.crewbus_callback_register(bus=self, scope=scope, callback=given)
        if taken is not None and not callable(taken):
            raise CallbackError(f"crewbus_callback_register answers with what can be called, or None; got {taken!r}")
        return self._as_callback(given, given if taken is None else taken)

    def _as_callback(self, given: Any, function: Function) -> Callback:
        callback = Callback(cast("Bus", self), given, name_of(given), function)
        wrapped = is_async(given) and not is_async(function)
        as_call = self._as_call_that_answers if wrapped else self._as_call
        return attrs.evolve(callback, call=as_call(function, callback.name, callback))

    def _as_call_that_answers(self, function: Function, name: str, callback: Callback) -> Callable[[Envelope], None]:
        """A plain function in which a plugin wrapped an async one: what it gives back to be awaited, is awaited."""

        def call(envelope: Envelope) -> None:
            answer = function(envelope)
            if inspect.isawaitable(answer):
                self._tasks.schedule(functools.partial(_awaited, answer), name, callback, envelope)

        return call

    def _call_back(
        self, callbacks: tuple[Callback, ...], envelope: Envelope, escaped: BaseException | None
    ) -> BaseException | None:
        for callback in callbacks:
            try:
                callback.call(envelope)
            except BaseException as error:
                escaped = self._contain(callback, error, envelope, escaped)
        return escaped

    def _let_go(self, call: Call, escaped: BaseException | None) -> BaseException | None:
        """End the delivery of an event to a call's callbacks; the last to do so tells them that the call has ended."""
        with call.base.lock:
            last, callbacks, owed = call.release()
        try:
            return escaped if last is None else self._call_back(callbacks, last, escaped)
        finally:
            if owed is not None:
                self._tasks.settle(owed)

    # Emission

    def _turn(self, scope: Scope, event: Any, turn: int) -> None:
        """Emit the event that opens or ends a call or an attempt."""
        if self.closed and turn == ENDS:
            scope.abandon()
            return
        run = scope.run
        plan, failure = self._plan_of(event), None
        if self._redactors:
            try:
                event, plan = self._redact(scope.run, event)
            except RedactionError as error:
                if turn != ENDS or isinstance(event, StepFinished):
                    raise  # a result that may not be seen is none; the step fails
                event, failure = withheld(event), error  # it ends all the same
        source = scope.call.source if scope.call is not None else None
        told = self._claim(run, scope, turn) if run is not None else None
        if told is not None and run is not None:
            self._tell_again(plan, scope, run, event, source, told, turn)
        else:
            self._emit_in_scope(plan, scope, event, source, turn)
            if run is not None:
                self._wait_if_sync(run)
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or it, its traceback and this frame would hold each other

    def _emit_in_scope(self, plan: Plan, scope: Scope, event: Any, source: Any, turn: int) -> Envelope | None:
        tree = scope.base
        after = emission = None
        try:
            with tree.lock:
                if tree.busy:
                    tree.defer(functools.partial(self._emit_in_scope, plan, scope, event, source, turn))
                    return None
                # Most emissions are within a call, and no attempt is near: they are spared a look at either.
                admitted = not (turn or scope.attempts) or scope.admits(plan.frame, turn)
                tree.busy = True
                try:
                    emission = self._number(plan, scope, event, source, turn) if admitted else None
                finally:
                    tree.busy = False
                    after, tree.after = tree.after, None
            if emission is None:
                return self._emit_astray(plan, scope, event, source, turn, admitted)
            self._spread(plan, emission)
            return emission.envelope
        finally:
            for act in after or ():
                act()

    def _emit_astray(
        self, plan: Plan, scope: Scope, event: Any, source: Any, turn: int, admitted: bool
    ) -> Envelope | None:
        """An event that has no place in its scope any more: of a call that has ended, or an attempt that failed."""
        if admitted:
            return self._emit_unscoped(plan, scope.run, event, source)
        if turn == WITHIN:
            self._warn_astray(event, LOST_ATTEMPT)
        return None

    def _number(self, plan: Plan, scope: Scope, event: Any, source: Any, turn: int) -> Emission | None:
        """Number, record and stream an event; None for one that has no place any more. Called under the lock."""
        call, run = scope.call, scope.run
        alive = call is not None and not call.ended
        if run is not None and run.ended:
            run = None
        escaped = None
        if run is not None:
            tree = run.tree
            if tree.recorded:
                envelope = self._number_recorded(run, scope, event, source)
            else:
                number = next(tree.numbers)
                envelope = Envelope(event, run.id, number, scope.start_id, now(), source, scope.attempt_number)
            if plan.routers:
                escaped = self._route(plan.routers, run, envelope, None)
        elif alive or turn != WITHIN:
            envelope = self._stamp_outside(plan, scope, event, source)
        else:
            return None
        if turn:
            scope.turn(turn, envelope)
        if call is None or not (alive or not call.ended):
            return Emission(run, envelope, None, (), escaped)
        if envelope is call.last and call.delivering:
            call.forget_interrupted(sum(code is Calls._spread.__code__ for code in callers()))
        if envelope is call.last and call.delivering:
            call.owed = self._tasks.owe_one(call.name)
        return Emission(run, envelope, call, call.hold(), escaped)

    def _spread(self, plan: Plan, emission: Emission) -> None:
        """Tell observers, handlers and callbacks."""
        run, envelope, call, callbacks, escaped = emission
        try:
            if plan.heard:
                self._deliver(plan, run, envelope)
        except BaseException as error:
            escaped = escaped or error
        try:
            if call is not None and envelope is not call.last:
                escaped = self._call_back(callbacks, envelope, escaped)
        finally:
            if call is not None:
                escaped = self._let_go(call, escaped)
        if run is None:
            for worker in plan.queues:
                worker.wait_for_room()
        if escaped is not None:
            try:
                raise escaped
            finally:
                del escaped, emission  # or it, its traceback and this frame would hold each other

    # What a resumed run repeats

    @staticmethod
    def _claim(run: Run, scope: Scope, turn: int) -> int | None:
        """The number under which a resumed run repeats the start or the end of ``scope``; None: it does not."""
        log = run.tree.log
        if log is None or not log.careful:
            return None
        with run.tree.lock:
            replay = log.replay
            if replay is None:
                return None
            if isinstance(scope, Call):
                told = replay.claim_call(scope) if turn == OPENS else -1 if replay.is_repeated(scope) else None
                if turn == ENDS:
                    replay.ended(scope)
                return told
            if not isinstance(scope, Attempt) or scope.place is scope:
                return None
            if replay.is_repeated(scope.of):
                return -1
            return replay.claim_attempt(scope) if turn == OPENS else -1 if replay.is_pending(scope) else None

    def _tell_again(
        self, plan: Plan, scope: Scope, run: Run, event: Any, source: Any, seq: int = -1, turn: int = WITHIN
    ) -> Envelope:
        envelope = Envelope(event, run.id, seq, scope.start_id, now(), source, scope.attempt_number, replayed=True)
        with run.tree.lock:
            call = scope.call
            alive = call is not None and not call.ended
            if turn:
                scope.turn(turn, envelope)
            if call is None or not (alive or not call.ended):
                emission = Emission(run, envelope, None, (), None)
            else:
                emission = Emission(run, envelope, call, call.hold(), None)
            for worker in plan.queues:
                worker.push(self, run, envelope)
        self._spread(plan, emission)
        for worker in plan.queues:
            worker.wait_for_room()
        return envelope

    def _end_again(self, run: Run, event: RunEnded) -> bool:
        log = run.tree.log
        with run.tree.lock:
            if log is None or log.replay is None or run.ended or not log.replay.is_repeated(run):
                return False
            log.replay.ended(run)
            envelope = Envelope(event, run.id, -1, run.start_id, now(), replayed=True)
            for sink in run.sinks:
                sink.push(run, envelope)
            run.retire(state_after(event))
        try:
            self._deliver(self._plan_of(event), run, envelope)
        finally:
            self._dismiss(run)
        return True

    def _tree_outside(self) -> Tree:
        """The tree of a call outside any run: a lock of its own, and the numbers of the process."""
        tree = Tree()
        tree.numbers = unscoped_numbers
        return tree


async def _awaited(answer: Awaitable[object], _: Envelope) -> None:
    await answer


INSIDE.add(Calls._emit_in_scope.__code__)
DELIVERING.add(Calls._call_back.__code__)
