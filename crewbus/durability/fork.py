"""Forking: another run shares the record of a run up to a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from crewbus.durability.recorder import Recorder
from crewbus.durability.resume import position
from crewbus.events import Envelope, RunFailed, RunFinished, RunForked, RunResumed, StepFinished
from crewbus.exceptions import InputError, RunNotFoundError, StepError
from crewbus.records import Lineage, Progress, Record, RecordedHome, read_progress, require_root, valid
from crewbus.scopes import new_id
from crewbus.serialization import Written


def fork_run(recording: Recorder, run_id: str, at: str | None, edits: Mapping[str, Any]) -> str:
    """Make another run that shares the record of this one; see `Bus.fork`."""
    if not isinstance(edits, Mapping):
        raise InputError(f"edits map the names of steps to results; got {edits!r}")
    store = recording.store
    require_root(store, run_id)
    record = Record(store, run_id, run_id, recording.decode)
    edited = _edited(record, edits)
    last = _fork_point(recording, record, at, edited)
    for edit, (_, end) in edited.items():
        if end > last:
            raise StepError(f"edit {edit!r}: the step finished after checkpoint {at!r}")
    fork_id = new_id()
    forked = RunForked(run_id, last, tuple(edited), _fatal_after(record, last))
    events = [Envelope(forked, fork_id, last + 1, f"{fork_id}:0", time.time())]
    lineage = Lineage.of_fork(store, run_id, last, fork_id) if edited else None
    for edit, (scope, end) in edited.items():
        assert lineage is not None
        assert scope.step is not None
        assert scope.parent is not None
        before: StepFinished = record.at(end).event
        recorded = Written(before.result, before.type, before.version)
        written = recording.codec().edit(edits[edit], recorded, f"edit {edit!r}")
        around = lineage.envelope_id(scope.parent.ids[0], scope.parent.start)
        started = Envelope(scope.step, fork_id, last + 1 + len(events), around, time.time())
        ended = StepFinished(scope.step.name, *written)
        events += (started, Envelope(ended, fork_id, started.seq + 1, started.id, time.time()))
    store.fork(run_id, last, fork_id, [recording.encode(envelope) for envelope in events])
    return fork_id


def _fork_point(
    recording: Recorder, record: Record, at: str | None, edited: Mapping[str, tuple[RecordedHome, int]]
) -> int:
    """The number of the last event that a fork shares."""
    if at is not None:
        return position(record, at, record.marks())
    if edited:
        return max(end for _, end in edited.values())
    last = recording.store.info(record.root_id).last
    if last < 0:
        raise RunNotFoundError(f"run {record.root_id} has no events in {recording.store!r}")
    end = record.end()
    return end.seq - 1 if end is not None and isinstance(end.event, RunFinished) else last


def _fatal_after(record: Record, last: int) -> tuple[str, ...]:
    """The steps with whose exception the run failed after number ``last``, before it was resumed."""
    fatal: tuple[str, ...] = ()
    for mark in record.marks():  # the last first
        if mark.seq <= last:
            break
        if isinstance(mark.event, RunResumed):
            fatal = ()
        elif isinstance(mark.event, RunFailed) and mark.run_id == record.root_id:
            fatal = mark.event.steps
    return fatal


def _edited(record: Record, edits: Mapping[str, Any]) -> dict[str, tuple[RecordedHome, int]]:
    """The steps that are edited, each with the number of its end."""
    if not edits:
        return {}
    progress = read_progress(valid(record.landmarks()).landmarks, record.stored)
    return {edit: _one_step(progress, edit) for edit in edits}


def _one_step(progress: Progress, edit: str) -> tuple[RecordedHome, int]:
    found, names = [], set()
    for scope in progress.steps:
        assert scope.step is not None
        if not scope.finished or scope.rejected or scope.end is None:
            continue
        full = f"{scope.step.name}[{scope.step.key}]"
        names.add(full)
        if edit in (scope.step.name, full):
            found.append((scope, scope.end))
    if len(found) == 1:
        return found[0]
    some = sorted(names)[:10]
    if not found:
        raise StepError(f"edit {edit!r}: no step of that name has finished; there are {', '.join(some) or 'none'}")
    raise StepError(f"edit {edit!r}: {len(found)} steps have that name; choose one as {' or '.join(some)}")
