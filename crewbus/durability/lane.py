"""How recorded and resumed runs commit their events."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from crewbus.dispatch import OrderedLane
from crewbus.durability.disk import Disk
from crewbus.durability.replay import around_home, call_parent, inside_home
from crewbus.durability.run_log import replay_of
from crewbus.durability.step_scope import Step
from crewbus.events import AttemptEnded, AttemptStarted, Retracted, StepFinished
from crewbus.exceptions import CrewbusError
from crewbus.scopes import Attempt, Call, Deferring, Lane, Numbers, Phase, Run, threads
from crewbus.stores import Store

if TYPE_CHECKING:
    from crewbus.dispatch import Plan
    from crewbus.durability.recorded_emissions import Content
    from crewbus.durability.replay import Replay
    from crewbus.durability.replayed_attempts import Commit
    from crewbus.events import Envelope
    from crewbus.scopes import Scope


class RecordedLane(OrderedLane):
    """Appends each event to the record, under the lock that numbers it."""

    def __init__(self, plain: OrderedLane, record: Callable[[Run, Envelope], None], store: Callable[[], Store]) -> None:
        super().__init__(plain.bus, plain.host, plain.deliverer, plain.faults, plain.unscoped, record)
        self._store = store

    def _is_recorded(self, run: Run | None, seq: Any, made: Envelope | None, error: BaseException) -> bool:
        if run is None or made is None:
            return super()._is_recorded(run, seq, made, error)
        if isinstance(error, CrewbusError):  # a recorder refused it, and the hook has given its number back
            return False
        try:
            last = self._store().info(run.root.id).last
        except CrewbusError:  # another recorder's run
            return False
        run.tree.numbers = Numbers(last + 1)
        return last >= int(seq)


class SyncedLane(RecordedLane):
    """Waits until the event is on disk, outside the lock, before the emission returns."""

    def __init__(
        self, plain: OrderedLane, record: Callable[[Run, Envelope], None], store: Callable[[], Store], disk: Disk
    ) -> None:
        super().__init__(plain, record, store)
        self._disk = disk

    def commit(
        self,
        plan: Plan,
        scope: Scope,
        event: Any,
        source: Any = None,
        phase: Phase = Phase.BODY,
        replayed_seq: int | None = None,
    ) -> Envelope | None:
        """As `OrderedLane.commit`; on disk when it returns."""
        envelope = super().commit(plan, scope, event, source, phase, replayed_seq)
        run = scope.run
        if run is None or replayed_seq is not None or (run.is_awaited and phase and run is scope):
            return envelope
        if not threads.state.holds_lock():
            self._disk.wait(run)
        return envelope


class ReplayLane:
    """Commits the events of a resumed run: what the record holds already is delivered, and not appended again."""

    def __init__(
        self,
        recorded: OrderedLane,
        new: Lane,
        content_of: Callable[[Any], Content],
        plan_of: Callable[[Any], Plan],
        track_source: Callable[[Run, object], None],
    ) -> None:
        self._recorded = recorded
        """The lane that delivers what the record holds."""
        self._new = new
        """The lane for everything else."""
        self._content_of = content_of
        self._plan_of = plan_of
        self._track_source = track_source

    def commit(
        self,
        plan: Plan,
        scope: Scope,
        event: Any,
        source: Any = None,
        phase: Phase = Phase.BODY,
        replayed_seq: int | None = None,
    ) -> Envelope | None:
        """Commit one event of ``scope``; see `Lane`."""
        if threads.state.holds_lock():
            self._recorded.faults.defer(partial(self.commit, plan, scope, event, source, phase, replayed_seq))
            return None
        run = scope.run
        if run is None or replayed_seq is not None or (run.ended and not phase):
            lane = self._new if replayed_seq is None else self._recorded
            return lane.commit(plan, scope, event, source, phase, replayed_seq)
        if run.tree.stopped and not phase and run.discards():
            return None
        content = self._content_of(event) if not phase and _may_repeat(run) else None
        with Deferring(run.tree.lock), run.tree.lock:
            replay = replay_of(run.tree)
            if replay is not None:
                event, replayed_seq = self._claim(replay, (plan, scope, event, source), phase, content)
                if replayed_seq is not None and source is not None:
                    self._track_source(run, source)
        if replayed_seq is not None:
            return self._recorded.commit(plan, scope, event, source, phase, replayed_seq)
        if replay is not None:
            self._prepare(replay, plan, scope, event, phase)
            if isinstance(event, Retracted) and isinstance(scope, Attempt):
                event = self._own_retraction(replay, scope, event)
                with Deferring(run.tree.lock), run.tree.lock:
                    replay.retract(event)
        return self._new.commit(plan, scope, event, source, phase)

    @staticmethod
    def _claim(replay: Replay, commit: Commit, phase: Phase, content: Content | None) -> tuple[Any, int | None]:
        """The event to commit, and the number under which the record holds it; None: it is new."""
        _, scope, event, _ = commit
        if not phase:
            return event, replay.match(commit, content) if content is not None else None
        if isinstance(scope, Step):
            return event, None
        if isinstance(scope, Attempt):
            if isinstance(event, Retracted):
                return replay.retraction(scope, event)
            if isinstance(event, AttemptEnded):
                return event, replay.claim_attempt_end(scope, event)
            return replay.claim_attempt(scope, event)
        if phase == Phase.START:
            return event, replay.claim_call(scope, commit) if isinstance(scope, Call) else None
        return event, replay.claim_end(scope, event) if isinstance(scope, Call | Run) else None

    def _prepare(self, replay: Replay, plan: Plan, scope: Scope, event: Any, phase: Phase) -> None:
        """Get ready for something new in ``scope``: a repeated attempt around it is begun anew in the record."""
        is_result = isinstance(event, StepFinished)
        if is_result and isinstance(scope, Step):
            scope = scope.of  # what precedes a result stays if the step around it fails
        elif phase == Phase.END or isinstance(event, AttemptStarted):
            self._settle(replay, scope)
            return
        with Deferring(scope.tree.lock), scope.tree.lock:
            going_on, before = replay.changes(scope, repeats=plan.frame or is_result)
        for attempt in going_on:  # so that the record shows what follows its retraction
            self._begin_anew(replay, attempt, attempt)
        self._commit_anew(replay, before)
        self._settle(replay, scope)
        for attempt in scope.attempts:
            self._begin_anew(replay, attempt, scope)
        if plan.frame and scope.start_id is not None:
            with Deferring(scope.tree.lock), scope.tree.lock:
                for attempt in scope.attempts:
                    attempt.note(scope.start_id)

    def _settle(self, replay: Replay, scope: Scope) -> None:
        """Begin anew, for something new, the attempts and calls around it of which nothing was repeated yet."""
        for around in reversed([*inside_home(around_home(scope))]):
            before = around.start_id
            if isinstance(around, Attempt):
                if replay.is_open(around):
                    self._begin_anew(replay, around, around)
            elif isinstance(around, Call):
                self._begin_call_anew(replay, around)
            if scope.start_id == before:
                scope.start_id = around.start_id

    def _begin_call_anew(self, replay: Replay, call: Call) -> None:
        with Deferring(call.tree.lock), call.tree.lock:
            again = replay.call_begins_anew(call)
            if again is None:
                return
            call.start_id = call.parent_id = call_parent(call).start_id
        plan, event, source = again
        self._new.commit(plan, call, event, source, Phase.START)

    def _own_retraction(self, replay: Replay, attempt: Attempt, event: Retracted) -> Retracted:
        """The retraction of an attempt or step, which names its own start: that tells it from others' retractions."""
        if attempt.start_id not in event.parents:
            self._begin_anew(replay, attempt, attempt)
        own = attempt.start_id
        parents = event.parents if own is None or own in event.parents else (own, *event.parents)
        return Retracted(event.since, event.reason, parents)

    def _begin_anew(self, replay: Replay, attempt: Attempt, scope: Scope) -> None:
        recorded_start = attempt.start_id
        if scope.start_id != recorded_start:
            return
        with Deferring(scope.tree.lock), scope.tree.lock:
            started = replay.begins_anew(attempt)
            if started is None:
                return
            attempt.start_id = attempt.of.start_id
        self._new.commit(self._plan_of(started), attempt, started, None, Phase.START)
        scope.start_id = attempt.start_id

    def kept(self, attempt: Attempt) -> None:
        """An attempt succeeded: commit anew what it matched with text that is recorded as rejected."""
        replay = replay_of(attempt.tree)
        if replay is None:
            return
        with Deferring(attempt.tree.lock), attempt.tree.lock:
            again = replay.kept(attempt)
        self._commit_anew(replay, again)

    def _commit_anew(self, replay: Replay, commits: list[Commit]) -> None:
        for plan, scope, event, source in commits:
            self._prepare(replay, plan, scope, event, Phase.BODY)
            self._new.commit(plan, scope, event, source)


def _may_repeat(run: Run) -> bool:
    """Whether an emission in ``run`` may be recorded: only then its content is needed."""
    replay = replay_of(run.tree)  # without the lock: what has been repeated stays so
    return replay is not None and replay.may_repeat()
