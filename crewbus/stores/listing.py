"""Listings: which logs are asked for, and what is said of each without reading the events in between."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

import attrs

from crewbus.events import SUSPENDED
from crewbus.stores.rows import LogInfo, StoredEvent

__all__ = ["END_STATES", "STATES", "LogFilter", "LogSummary", "name_and_tags"]

QUEUED: Final = "queued"
RUNNING: Final = "running"
INTERRUPTED: Final = "interrupted"
END_STATES: Final[Mapping[str, str]] = {
    "crewbus.RunFinished": "finished",
    "crewbus.RunFailed": "failed",
    "crewbus.RunCancelled": "cancelled",
    "crewbus.RunSuspended": "suspended",
}
"""By the name of the event that ended a run, or suspended it: the run's state."""
STATES: Final = frozenset({QUEUED, RUNNING, INTERRUPTED, *END_STATES.values()})
"""All states that a run may be in."""
_START: Final = "crewbus.RunStarted"


class LogSummary(NamedTuple):
    """A log that has events: its state, and the events that say what it is and how it ended."""

    info: LogInfo
    first: StoredEvent
    """Event 0, which a fork shares."""
    begun: float
    """The time of the first event that was written to it; of the last that it shares, if none was written yet."""
    at: float
    """The time of its last event."""
    end: StoredEvent | None
    """The event that ended or suspended its root run, unless that was resumed since. One that a fork shares does not
    count."""

    @property
    def has_ended(self) -> bool:
        """Whether its run has ended, and was not resumed since. One that is suspended has not."""
        return has_ended(self.end)

    @property
    def state(self) -> str:
        """As `crewbus.RunInfo.state`."""
        if self.info.alive and not self.info.sealed:  # also when it has just been resumed
            return RUNNING
        if self.info.queued:
            return QUEUED
        return INTERRUPTED if self.end is None else END_STATES[self.end.name]


@attrs.frozen
class LogFilter:
    """Which logs `Store.find` looks for. A log has to match everything that is given here."""

    states: frozenset[str] | None = None
    """The states of their runs, as `LogSummary.state` has them; None: any."""
    name: str | None = None
    """The name of their root run."""
    tags: Mapping[str, str] = attrs.field(factory=dict)
    """Tags of their root run, which may have more."""
    since: float | None = None
    """The least `LogSummary.begun`, in seconds since the epoch (UTC)."""
    limit: int | None = None
    """How many logs at most, counted from the newest."""

    def matches(self, summary: LogSummary) -> bool:
        """Whether a log matches, apart from the limit."""
        if self.states is not None and summary.state not in self.states:
            return False
        if self.since is not None and not summary.begun >= self.since:  # a time that is not a number does not match
            return False
        if self.name is None and not self.tags:
            return True
        name, tags = name_and_tags(summary.first)
        return self.name in (None, name) and self.tags.items() <= tags.items()


def has_ended(end: StoredEvent | None) -> bool:
    """Whether the event that ended or suspended a root run ended it."""
    return end is not None and end.name != SUSPENDED


def name_and_tags(first: StoredEvent) -> tuple[str | None, dict[str, str]]:
    """The name and the tags of a root run, from event 0 of its log. Anything but the start of a run has neither."""
    try:
        start = json.loads(first.data) if first.name == _START else {}
    except (ValueError, RecursionError):
        return None, {}
    name, tags = (start.get("name"), start.get("tags")) if isinstance(start, dict) else (None, None)
    texts = {key: value for key, value in tags.items() if isinstance(value, str)} if isinstance(tags, dict) else {}
    return name if isinstance(name, str) else None, texts
