"""Checkpoints: named positions in a run's record, with the state of its tracked entities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from crewbus._util import is_text, running_loop
from crewbus.durability.disk import Disk
from crewbus.durability.recorder import Recorder
from crewbus.durability.tracked import Tracked
from crewbus.events import CheckpointSaved, EntitySaved, Envelope, entity_types, event_type_of
from crewbus.exceptions import InputError
from crewbus.scopes import Deferring

if TYPE_CHECKING:
    from crewbus.dispatch import Subscriptions
    from crewbus.durability.run_log import RunLog
    from crewbus.scopes import Run, Scope


class Checkpoints:
    """Saves the checkpoints of a bus's runs."""

    def __init__(self, recording: Recorder, disk: Disk) -> None:
        self._recording = recording
        self._disk = disk

    def save(self, scope: Scope, name: str) -> Envelope | None:
        """Save a checkpoint, without waiting for the disk; None if the run is not recorded."""
        if not is_text(name):
            raise InputError(f"a checkpoint has a name; got {name!r}")
        run = scope.run
        log: RunLog | None = run.tree.log if run is not None else None
        if run is None or log is None:
            return None
        recorded_at = self._repeats(scope, run, log, name)
        if recorded_at is not None:
            return self._recording.redeliver(scope, CheckpointSaved(name), recorded_at)
        return self._recording.append(scope, CheckpointSaved(name, self._save_entities(scope, log)))

    def _repeats(self, scope: Scope, run: Run, log: RunLog, name: str) -> int | None:
        """The number of the recorded checkpoint that a resumed run makes again; None: it is new."""
        content = self._recording.content_of(CheckpointSaved(name))
        with Deferring(run.tree.lock), run.tree.lock:
            if log.replay is None:
                return None
            plan = self._recording.plan_of(CheckpointSaved(name))
            found = log.replay.match((plan, scope, CheckpointSaved(name), None), content)
            if found is None:
                log.replay.changes(scope, repeats=False)
            return found

    def _save_entities(self, scope: Scope, log: RunLog) -> dict[str, int]:
        return {key: self._save_entity(scope, key, tracked) for key, tracked in list(log.entities.items())}

    def _save_entity(self, scope: Scope, name: str, tracked: Tracked) -> int:
        """The number of the event that holds an entity's state: emitted now, unless the state has not changed."""
        state = tracked.write(self._recording.codec(), name)
        # A redactor sees whole states: what it looks for may be in two changes.
        draft = tracked.draft(state, whole=self._recording.redacts)
        if draft is None:
            return tracked.saved_at
        assert state.type is not None
        event = EntitySaved(name, state.type, state.version, draft.data, draft.base)
        envelope = self._recording.append(scope, event)
        if envelope is not None:
            tracked.note(draft, envelope.seq)
        return tracked.saved_at

    def watch(self, subscriptions: Subscriptions, before: Iterable[type], now: Iterable[type]) -> None:
        """Save a checkpoint after events of the types ``now``, and no longer after those ``before``."""
        for event_type in before:
            subscriptions.off(event_type, self.save_after)
        for event_type in now:
            subscriptions.on(event_type, self.save_after, background=False)

    def save_after(self, envelope: Envelope) -> None:
        """Save a checkpoint after an event of a type that `Bus.enable_recording` was given: a handler."""
        if envelope.replayed or isinstance(envelope.event, CheckpointSaved | EntitySaved):
            return
        run = self._recording.find_run(envelope.run_id or "")
        log: RunLog | None = run.tree.log if run is not None else None
        if run is not None and log is not None and not run.ended:
            name = event_type_of(type(envelope.event)).name
            self._recording.append(run, CheckpointSaved(name, self._save_entities(run, log), automatic=True))
            if running_loop() is None:  # a loop must not be blocked; what waits next waits for this too
                self._disk.wait(run)

    def track(self, run: Run, name: str, entity: Any) -> None:
        """Keep the state of ``entity`` with each checkpoint of ``run``."""
        log: RunLog | None = run.tree.log
        if not is_text(name):
            raise InputError(f"a tracked entity has a name; got {name!r}")
        entity_types.of(type(entity))
        if log is not None:
            with Deferring(run.tree.lock), run.tree.lock:
                known = log.entities.get(name)
                if known is None or known.entity is not entity:
                    log.entities[name] = log.sources[id(entity)] = Tracked(entity)
