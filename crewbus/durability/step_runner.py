"""Steps and checkpoints of a bus: what the record is asked before a step is called, and given when it has returned."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from crewbus._util.callables import is_text
from crewbus._util.loops import call_on, running_loop, settle
from crewbus.durability.recorder import Recording
from crewbus.durability.run_log import FailedTry
from crewbus.durability.step import Step, identity_of, path_of
from crewbus.durability.step_function import Declared
from crewbus.durability.tracked import Tracked
from crewbus.events import CheckpointSaved, EntitySaved, Envelope, StepFinished, StepStarted, event_type_of
from crewbus.events.entities import entities
from crewbus.exceptions import CrewbusError, DecodeError, InputError, StepError
from crewbus.records.progress import read_progress
from crewbus.records.record import Record
from crewbus.scopes.current import strand
from crewbus.scopes.run import Run
from crewbus.scopes.scope import WITHIN, Scope
from crewbus.serialization.codec import Written

if TYPE_CHECKING:
    from crewbus.dispatch.subscriptions import Plan
    from crewbus.durability.run_log import Log


class StepCall(NamedTuple):
    """A step that was asked for: what it is, and where its result is recorded, if it is."""

    step: Step
    found: int | None = None
    opaque: bool = False


class Steps(Recording):
    """Calls steps, and saves checkpoints."""

    # Steps

    def _perform(self, declared: Declared, scope: Scope, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a step in ``scope``, or return what is recorded of it; of an async one, a coroutine that does."""
        perform = self._aperform if declared.is_async else self._perform_here
        return perform(declared, scope, args, kwargs)

    def _perform_here(self, declared: Declared, scope: Scope, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        run = scope.run
        if run is None or run.ended:
            return declared.function(*args, **kwargs)
        asked = self._ask(declared, scope, run, args, kwargs)
        if asked.found is not None:
            return self._recall(declared, run, asked)
        try:
            with asked.step:
                result = declared.function(*args, **kwargs)
                self._give(declared, run, asked, result)
        finally:
            self._leave(run, asked)
        try:
            self._wait_written(run)
        except BaseException:
            asked.step.unconfirmed()
            raise
        return result

    async def _aperform(
        self, declared: Declared, scope: Scope, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        run = scope.run
        if run is None or run.ended:
            return await declared.function(*args, **kwargs)
        asked = self._ask(declared, scope, run, args, kwargs)
        if asked.found is not None:
            return self._recall(declared, run, asked)
        try:
            async with asked.step:
                result = await declared.function(*args, **kwargs)
                self._give(declared, run, asked, result)
        finally:
            self._leave(run, asked)
        try:
            await self._await_written(run)
        except BaseException:
            asked.step.unconfirmed()
            raise
        return result

    def _ask(
        self, declared: Declared, scope: Scope, run: Run, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> StepCall:
        if run.tree.cancelled:
            run.check()
        log = run.tree.log
        if log is None:
            return StepCall(Step(scope, StepStarted(declared.name)))
        key = declared.key(args, kwargs)
        place = scope.place
        base = (path_of(place), declared.name, key.text)
        with run.tree.lock:
            if key.opaque and base in log.busy:
                raise StepError(
                    f"step {declared.name!r} is under way twice, told apart only by {', '.join(key.opaque)}, which "
                    "can't be looked into: give it a key="
                )
            ordinal, draft = log.ordinals.take(base)
            for inner, number in draft.steps if draft is not None else ():
                log.ordinals.give_back(inner, number)
            inline = (place.strand if isinstance(place, Step) else log.strands.get(run)) == strand()
            event = StepStarted(declared.name, key.text, ordinal, inline, identity_of(base, ordinal))
            step = Step(scope, event, base, draft)
            try:
                found = self._find(log, step, draft)
            except BaseException:
                log.ordinals.give_back(base, ordinal, draft)
                raise
            if key.opaque and found is None:
                log.busy.add(base)
        return StepCall(step, found, bool(key.opaque))

    @staticmethod
    def _find(log: Log, step: Step, draft: FailedTry | None) -> int | None:
        """The number of the event that holds a step's result; None: it is to be called. Under the lock."""
        if log.replay is None:
            return None
        if draft is not None:
            log.replay.retract(draft.since, draft.opened)
        found = log.replay.find(step.event.identity)
        if found is None:
            log.replay.refuse_divergence(step)
            if draft is None:
                log.replay.enter(step)
        return found

    def _recall(self, declared: Declared, run: Run, asked: StepCall) -> Any:
        """The recorded result of a step."""
        assert asked.found is not None
        stored = self.store.event(run.root.id, asked.found)
        event = self.decode(stored).event
        if not isinstance(event, StepFinished):
            raise DecodeError(f"event {asked.found} of run {run.root.id} should be the end of step {declared.name!r}")
        result = self._coder().read(Written(event.result, event.type, event.version), declared.annotation)
        with run.tree.lock:
            replay = run.tree.log.replay if run.tree.log is not None else None
            if replay is not None:
                asked.step.recall(replay.returned(asked.step.event.identity))
        return result

    def _give(self, declared: Declared, run: Run, asked: StepCall, result: Any) -> None:
        """Have a step end with this result; raises what keeps it from being recorded."""
        if run.tree.log is None:
            return
        asked.step.give(self._coder().write(result, declared.annotation, f"step {declared.name!r}"))
        self._refuse_rest(asked.step)

    def _leave(self, run: Run, asked: StepCall) -> None:
        log = run.tree.log
        if log is None:
            return
        with run.tree.lock:
            if asked.opaque:
                log.busy.discard(asked.step.base_key)
            if log.replay is not None:
                if asked.step.well:
                    log.replay.succeeded(asked.step)
                log.replay.ended(asked.step)

    def _loose_in(self, step: Step) -> tuple[int, tuple[str, ...]]:
        """From which number on what is taken back of a step that fails, and the parents of that.

        It is what a resume would take back if it had been left open: see `RecordedScope.retracted_parents`.
        """
        run = step.run
        if run is not None and run.tree.log is not None:
            record = Record(self.store, run.root.id, run.root.id, self.decode)
            with suppress(CrewbusError):  # a store that fails; whoever emits is told
                # What it did before it was taken up here, the resume has seen to.
                recorded = read_progress(record.landmarks(step.started_at - 1)).steps.get(step.event.identity)
                if recorded is not None:
                    return recorded.boundary + 1, tuple(recorded.retracted_parents(ended=True))
        return max(step.since, step.finished_at + 1), tuple(step.opened)

    def _refuse_rest(self, scope: Run | Step) -> None:
        """Raise `ReplayMismatch` if a resumed run or step ends well and has not asked for all that is recorded."""
        run = scope.run
        log = run.tree.log if run is not None else None
        if run is not None and log is not None and log.careful:
            with run.tree.lock:
                if log.replay is not None:
                    log.replay.refuse_rest(scope)

    # What is recorded with care

    def _emit_recorded(self, plan: Plan, scope: Scope, run: Run, event: Any, source: Any) -> Envelope | None:
        if self._repeats(run, scope):
            return self._tell_again(plan, scope, run, event, source)
        if scope is run:
            envelope = self._emit_in_order(plan, run, event, source)
        else:
            envelope = self._emit_in_scope(plan, scope, event, source, WITHIN)
        self._wait_if_sync(run)
        return envelope

    def _repeats(self, run: Run, scope: Scope) -> bool:
        """Whether the next emission in ``scope`` is in the record of a resumed run; it is counted."""
        log = run.tree.log
        if log is None or not log.careful:
            return False
        with run.tree.lock:
            return log.replay is not None and log.replay.repeats(scope)

    def _append(self, scope: Scope, event: Any) -> Envelope | None:
        """Emit an event of the bus's own that is new, whatever a resumed run has still to repeat."""
        if self._redactors:
            event, _ = self._redact(scope.run, event)
        plan = self._plan_of(event)
        if isinstance(scope, Run):
            return self._emit_in_order(plan, scope, event, None)
        return self._emit_in_scope(plan, scope, event, None, WITHIN)

    def _claim_run(self, run: Run) -> int | None:
        """The number under which a resumed run repeats, or goes on with, a nested one; None: that is new."""
        log = run.tree.log
        if run.parent is None or log is None or not log.careful:
            return None
        with run.tree.lock:
            if log.replay is None:
                return None
            recorded = log.replay.claim_run(run)
            if recorded is None:
                return -1 if log.replay.is_repeated(run) else None
        run.id = recorded.run_id
        return recorded.start

    # The disk

    def _wait_written(self, run: Run) -> None:
        """Return when all that was emitted in a recorded run is on disk; raises what kept it from being written."""
        if not run.tree.recorded:
            return
        # A bare lock: an interrupt that hit an Event could leave it held, and whoever notifies would wait for ever.
        gate, failures = threading.Lock(), list[BaseException | None]()
        gate.acquire()

        def notify(failure: BaseException | None) -> None:
            failures.append(failure)
            gate.release()

        self.store.when_written(run.root.id, notify)
        gate.acquire()
        if failures[0] is not None:
            raise failures[0]

    async def _await_written(self, run: Run) -> None:
        """As `_wait_written`, without blocking the loop."""
        loop = running_loop()
        if loop is None:  # another kind of loop drives it
            self._wait_written(run)
            return
        if not run.tree.recorded:
            return
        future, failures = loop.create_future(), list[BaseException | None]()

        def notify(failure: BaseException | None) -> None:
            failures.append(failure)
            call_on(loop, partial(settle, future))

        self.store.when_written(run.root.id, notify)
        if not failures:
            await future
        if failures[0] is not None:
            raise failures[0]

    # Checkpoints

    def _checkpoint(self, scope: Scope, name: str) -> Envelope | None:
        envelope = self._save_checkpoint(scope, name)
        if envelope is not None and scope.run is not None:
            self._wait_written(scope.run)
        return envelope

    async def _acheckpoint(self, scope: Scope, name: str) -> Envelope | None:
        envelope = self._save_checkpoint(scope, name)
        if envelope is not None and scope.run is not None:
            await self._await_written(scope.run)
        return envelope

    def _save_checkpoint(self, scope: Scope, name: str) -> Envelope | None:
        if not is_text(name):
            raise InputError(f"a checkpoint has a name; got {name!r}")
        run = scope.run
        log = run.tree.log if run is not None else None
        if run is None or log is None:
            return None
        if self._repeats(run, scope):
            event = CheckpointSaved(name)
            return self._tell_again(self._plan_of(event), scope, run, event, None)
        return self._append(scope, CheckpointSaved(name, self._save_entities(scope, log)))

    def _save_entities(self, scope: Scope, log: Log) -> dict[str, int]:
        return {key: self._save(scope, key, tracked) for key, tracked in list(log.entities.items())}

    def _checkpoint_after(self, envelope: Envelope) -> None:
        if envelope.replayed or isinstance(envelope.event, CheckpointSaved | EntitySaved):
            return
        run = self._runs.get(envelope.run_id or "")
        log = run.tree.log if run is not None else None
        if run is not None and log is not None and not run.ended:
            name = event_type_of(type(envelope.event)).name
            self._append(run, CheckpointSaved(name, self._save_entities(run, log), automatic=True))
            if running_loop() is None:  # which must not be blocked; whatever waits next waits for this too
                self._wait_written(run)

    def _track(self, run: Run, name: str, entity: Any) -> None:
        log = run.tree.log
        if not is_text(name):
            raise InputError(f"a tracked entity has a name; got {name!r}")
        entities.of(type(entity))
        if log is not None:
            with run.tree.lock:
                known = log.entities.get(name)
                if known is None or known.entity is not entity:
                    log.entities[name] = log.sources[id(entity)] = Tracked(entity)

    def _save(self, scope: Scope, name: str, tracked: Tracked) -> int:
        """The number of the event that holds an entity's state: emitted now, unless the state is the same as then."""
        digest, (data, kind, version) = tracked.write(self._coder(), name)
        known, saved_at = tracked.saved
        if digest == known:
            return saved_at
        assert kind is not None
        envelope = self._append(scope, EntitySaved(name, kind, version, data))
        if envelope is not None:
            tracked.saved = digest, envelope.seq
            return envelope.seq
        return saved_at
