"""What is known about a recorded root run."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from crewbus.events import Envelope, RunCancelled, RunFailed, RunFinished, RunStarted
from crewbus.records.record import Record
from crewbus.stores import LogInfo, Store, StoredEvent

__all__ = ["RunInfo"]


@attrs.frozen
class RunInfo:
    """A recorded root run: its name, its state and its origin."""

    id: str
    name: str | None
    tags: dict[str, str]
    state: str
    """"running", "finished", "failed", "cancelled", or "interrupted": its process ended before the run did."""
    started: float
    """In seconds since the epoch (UTC)."""
    ended: float | None
    """The time of its last event; None while it is running."""
    events: int
    """The number of events in its record, including those that a fork shares with its parent."""
    holder: str | None = None
    """A description of the process that executes it."""
    parent: str | None = None
    """The run that it was forked from."""
    parent_at: int | None = None
    """The number of the last event that it shares with ``parent``."""
    error: str | None = None
    """The error that it failed with."""


def read_info(store: Store, log: LogInfo, decode: Callable[[StoredEvent], Envelope]) -> RunInfo:
    """Describe the run of a log that has at least one event."""
    record = Record(store, log.root_id, log.root_id, decode)
    first, last, end = record.at(0), store.event(log.root_id, log.last), record.end()
    started = first.event if isinstance(first.event, RunStarted) else RunStarted()
    state = _state(log, end)
    return RunInfo(
        log.root_id,
        started.name,
        dict(started.tags),
        state,
        first.at,
        None if state == "running" else last.at,
        log.last + 1,
        log.holder if log.alive else None,
        log.parent,
        log.parent_at,
        f"{end.event.error}: {end.event.message}" if end and isinstance(end.event, RunFailed) else None,
    )


def _state(log: LogInfo, end: Envelope | None) -> str:
    if log.alive and not log.sealed:  # true also of a run that has just been resumed
        return "running"
    if end is None:
        return "interrupted"
    return {RunFinished: "finished", RunFailed: "failed", RunCancelled: "cancelled"}[type(end.event)]
