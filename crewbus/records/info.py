"""What is known about a recorded root run."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from crewbus.events import Envelope, RunCancelled, RunFailed, RunStarted, RunSuspended
from crewbus.stores import STATES, LogSummary, StoredEvent

__all__ = ["STATES", "RunInfo", "describe"]


@attrs.frozen
class RunInfo:
    """A recorded root run: its name, its state and its origin."""

    id: str
    name: str | None
    tags: dict[str, str]
    state: str
    """"queued": nobody has begun it; "running", "finished", "failed", "cancelled"; "suspended": its holder released it,
    for anyone to resume; or "interrupted": its process ended before the run did."""
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
    reason: str | None = None
    """The reason for which it was cancelled or suspended, if one was given."""
    until: float | None = None
    """If it is suspended: before which time it should not be resumed, in seconds since the epoch (UTC)."""


def describe(summary: LogSummary, decode: Callable[[StoredEvent], Envelope]) -> RunInfo:
    """Describe the run of a log."""
    log, first = summary.info, decode(summary.first)
    end = decode(summary.end).event if summary.end is not None else None
    started = first.event if isinstance(first.event, RunStarted) else RunStarted()
    return RunInfo(
        log.root_id,
        started.name,
        dict(started.tags),
        summary.state,
        first.at,
        None if summary.state == "running" else summary.at,
        log.last + 1,
        log.holder if log.alive else None,
        log.parent,
        log.parent_at,
        f"{end.error}: {end.message}" if isinstance(end, RunFailed) else None,
        end.reason or None if isinstance(end, RunCancelled | RunSuspended) else None,
        end.until if isinstance(end, RunSuspended) else None,
    )
