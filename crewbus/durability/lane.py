"""How recorded and resumed runs commit their events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from crewbus.dispatch import OrderedLane
from crewbus.durability.disk import Disk
from crewbus.durability.step_scope import Step
from crewbus.exceptions import CrewbusError
from crewbus.scopes import Attempt, Call, Deferring, Lane, Numbers, Phase, Run, threads
from crewbus.stores import Store

if TYPE_CHECKING:
    from crewbus.dispatch import Plan
    from crewbus.events import Envelope
    from crewbus.scopes import Scope


class RecordedLane(OrderedLane):
    """Appends each event to the record, under the lock that numbers it."""

    def __init__(self, plain: OrderedLane, record: Callable[[Run, Envelope], None], store: Callable[[], Store]) -> None:
        super().__init__(plain.bus, plain.host, plain.deliverer, plain.faults, plain.unscoped, record)
        self._store = store

    def resync_sequence(self, run: Run) -> None:
        """Continue the numbers after the last event that reached the store: an interrupt leaves that open."""
        with suppress(CrewbusError):
            run.tree.numbers = Numbers(self._store().info(run.root.id).last + 1)


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
        if scope.run is not None and replayed_seq is None and not threads.state.holds_lock():
            self._disk.wait(scope.run)
        return envelope


class ReplayLane:
    """Commits the events of a resumed run: what the record holds already is delivered, and not appended again."""

    def __init__(self, recorded: OrderedLane, new: Lane) -> None:
        self._recorded = recorded
        """The lane that delivers what the record holds."""
        self._new = new
        """The lane for everything else."""

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
        if run is not None and replayed_seq is None and (phase or not run.ended):
            if run.tree.cancelled and not phase:
                run.check()
            replayed_seq = self._claim(scope, run, phase)
        lane = self._new if replayed_seq is None else self._recorded
        return lane.commit(plan, scope, event, source, phase, replayed_seq)

    @staticmethod
    def _claim(scope: Scope, run: Run, phase: Phase) -> int | None:
        """The number under which the record holds this event, -1 if it is not known; None: it is new."""
        log = run.tree.log
        with Deferring(run.tree.lock), run.tree.lock:
            replay = log.replay if log is not None else None
            if replay is None:
                return None
            if not phase:
                return -1 if replay.repeats(scope) else None
            if isinstance(scope, Call):
                if phase == Phase.START:
                    return replay.claim_call(scope)  # type: ignore[no-any-return]
                seq = -1 if replay.is_repeated(scope) else None
                replay.ended(scope)
                return seq
            if isinstance(scope, Run):
                if phase == Phase.START or run.ended or not replay.is_repeated(run):
                    return None
                replay.ended(run)
                return -1
            if not isinstance(scope, Attempt) or isinstance(scope, Step):
                return None
            if replay.is_repeated(scope.of):
                return -1
            if phase == Phase.START:
                return replay.claim_attempt(scope)  # type: ignore[no-any-return]
            return -1 if replay.is_pending(scope) else None

    def rolled_back(self, attempt: Attempt) -> None:
        """Make again what the record holds of a failed attempt; called under the tree's lock."""
        log = attempt.tree.log
        if log is not None and log.replay is not None and not isinstance(attempt, Step):
            log.replay.retract(attempt.since, tuple(attempt.opened))
