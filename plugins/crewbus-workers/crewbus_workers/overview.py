"""What is in the queues."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from crewbus.stores import STATES, LogFilter, name_and_tags
from crewbus_workers.events import QUEUE_TAG

if TYPE_CHECKING:
    from crewbus import Bus
    from crewbus.stores import LogSummary

__all__ = ["QueueInfo", "queues"]

_OPEN: Final = STATES - {"finished", "failed", "cancelled"}


@attrs.define
class QueueInfo:
    """A queue, with the runs in it that have not ended."""

    name: str
    waiting: int = 0
    """Runs that a worker may begin or continue now."""
    later: int = 0
    """Runs that are not due yet: delayed, asleep, or waiting for a message."""
    running: int = 0
    stuck: int = 0
    """Runs that were taken over again and again without progress, and that wait for `requeue`."""
    oldest: float | None = None
    """For how many seconds the oldest of the waiting runs has been there."""

    def count(self, summary: LogSummary, now: float) -> None:
        """Count a run of the queue that has not ended, at a time in seconds since the epoch (UTC)."""
        info = summary.info
        if summary.state == "running":
            self.running += 1
        elif _is_stuck(summary):
            self.stuck += 1
        elif not info.is_due(now):
            self.later += 1
        else:
            self.waiting += 1
            self.oldest = max(self.oldest or 0.0, now - summary.begun)


def queues(bus: Bus) -> list[QueueInfo]:
    """The queues that have runs which have not ended, by name."""
    return survey(bus).queues


class Survey(NamedTuple):
    """What one reading of the store shows."""

    queues: list[QueueInfo]
    stuck: list[str]
    """The ids of the runs that no worker takes any more, the newest first."""


def survey(bus: Bus) -> Survey:
    """Read the queued runs that have not ended."""
    found: dict[str, QueueInfo] = {}
    stuck, now = list[str](), time.time()
    for summary in bus.store.find(LogFilter(_OPEN)):
        _, tags = name_and_tags(summary.first)
        if QUEUE_TAG in tags:
            found.setdefault(tags[QUEUE_TAG], QueueInfo(tags[QUEUE_TAG])).count(summary, now)
            if _is_stuck(summary):
                stuck.append(summary.info.root_id)
    return Survey([found[name] for name in sorted(found)], stuck)


def _is_stuck(summary: LogSummary) -> bool:
    return summary.info.is_stuck and summary.state != "running"
