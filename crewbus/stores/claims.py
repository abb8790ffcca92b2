"""Claims: which logs a process is ready to take over, and how many of a kind may be alive at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import attrs

from crewbus.exceptions import RecordingError
from crewbus.stores.listing import LogSummary, name_and_tags
from crewbus.stores.rows import StoredEvent

__all__ = [
    "PROGRESS",
    "Cap",
    "Claim",
    "Claimed",
    "Room",
    "check_due",
    "check_first_events",
    "may_be_claimed",
    "tags_of",
]

PROGRESS: Final = frozenset({"crewbus.StepFinished", "crewbus.StepFailed", "crewbus.RunSuspended"})
"""The names of the event types that show that a run got on: `LogInfo.stalls` is 0 after one."""


@attrs.frozen
class Cap:
    """A limit on the logs that are alive at once."""

    tag: str
    """The tag that it counts by: logs without this tag are not limited."""
    limit: int
    """How many logs may be alive for each value of the tag, over all processes."""


@attrs.frozen
class Claim:
    """What `Store.claim` looks for."""

    limit: int = 1
    """How many logs at most."""
    tags: Mapping[str, frozenset[str]] = attrs.field(factory=dict)
    """The values that are accepted, by tag. A log without one of these tags does not match."""
    caps: tuple[Cap, ...] = ()
    """Limits that the claim keeps. They bind no log that is taken in another way, but count it."""

    def accepts(self, tags: Mapping[str, str]) -> bool:
        """Whether the tags of a log match."""
        for tag, values in self.tags.items():  # noqa: SIM110 - a claim may look at thousands of logs
            if tags.get(tag) not in values:
                return False
        return True


class Claimed(NamedTuple):
    """A log that a claim took."""

    root_id: str
    epoch: int
    """The epoch to write it with."""


class Room:
    """How many more logs the caps of a claim admit; ``alive`` counts those that are alive, by tag and value."""

    def __init__(self, caps: tuple[Cap, ...], alive: Callable[[str, str], int]) -> None:
        self._caps = [(cap, dict[str, int]()) for cap in caps]
        """With what is left for each value that was asked for: a claim may look at thousands of logs."""
        self._alive = alive

    def admits(self, tags: Mapping[str, str]) -> bool:
        """Whether one more log with these tags may be alive."""
        for cap, left in self._caps:
            value = tags.get(cap.tag)
            if value is None:
                continue
            if value not in left:
                left[value] = cap.limit - self._alive(cap.tag, value)
            if left[value] <= 0:
                return False
        return True

    def add(self, tags: Mapping[str, str]) -> None:
        """Count a log that was admitted."""
        for cap, left in self._caps:
            value = tags.get(cap.tag)
            if value is not None:
                left[value] -= 1


def may_be_claimed(summary: LogSummary, now: float) -> bool:
    """Whether `Store.claim` may take a log at this time, in seconds since the epoch, apart from tags and caps."""
    info = summary.info
    is_open = not (info.sealed or info.alive) and not summary.has_ended
    was_forked_only = info.parent is not None and not info.epoch
    return is_open and info.is_due(now) and not (was_forked_only or info.is_stuck)


def tags_of(summary: LogSummary) -> dict[str, str]:
    """The tags of the root run of a log."""
    return name_and_tags(summary.first)[1]


def check_first_events(root_id: str, events: Sequence[StoredEvent]) -> None:
    """Raise `crewbus.RecordingError` unless a log may be created with these events."""
    if not events or [event.seq for event in events] != list(range(len(events))):
        raise RecordingError(f"run {root_id}: its first events are not numbered from 0")


def check_due(root_id: str, until: float | None) -> None:
    """Raise `crewbus.RecordingError` unless a log may be due then."""
    if until is not None and math.isnan(until):
        raise RecordingError(f"run {root_id} can't wait until {until}: give seconds since the epoch, or None")
