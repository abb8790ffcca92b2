"""A log in this process's memory."""

from __future__ import annotations

import math
import sys
from typing import Final, NamedTuple

import attrs

from crewbus.stores.listing import LogSummary, has_ended, name_and_tags
from crewbus.stores.rows import MOST_STALLS, LogInfo, Posted, StoredEvent
from crewbus.stores.shelves import ALL, Shelf, labels

__all__ = ["HOLDER", "NOWHERE", "MemoryLog", "Place"]

HOLDER: Final = "this process"


class Place(NamedTuple):
    """Where the index of claims has a log."""

    kind: str
    """``held``, ``ready`` to be claimed, ``waiting`` until it is due, or empty."""
    due: float = 0.0


NOWHERE: Final = Place("")


@attrs.define(eq=False)
class MemoryLog:
    """A log, and the events that were written to it; it shares those of its bases."""

    root_id: str
    number: int
    parent: MemoryLog | None = None
    base: MemoryLog | None = None
    """The log that the last event was written to that it shares: its parent, or an ancestor of that."""
    start: int = 0
    """The number of its first own event; earlier ones are its parent's."""
    last: int = attrs.field(default=attrs.Factory(lambda log: log.start - 1, takes_self=True))
    events: list[StoredEvent] = attrs.field(factory=list)
    landmarks: list[StoredEvent] = attrs.field(factory=list)
    marks: list[StoredEvent] = attrs.field(factory=list)
    runs: set[str] = attrs.field(factory=set)
    forks: list[str] = attrs.field(factory=list)
    size: int = 0
    epoch: int = 0
    open: bool = False
    """Whether its epoch may write; a revoked holder may until the log is acquired."""
    held: bool = False
    sealed: bool = False
    references: int = 1
    """A reference count: 1 while it is not sealed, and 1 for each fork that is needed."""
    depth: int = 0
    jump: MemoryLog | None = None
    """A base of its base, so far up that few jumps lead to any: they are a skew-binary list."""
    marked: tuple[MemoryLog, int] | None = None
    """The next base with marks that it shares, and the number at which these stop."""
    end: StoredEvent | None = None
    """See `LogSummary`."""
    latest: float = -math.inf
    """No log up to this one began later."""
    state: str = ""
    """The state that it is on the shelf of; empty before it is on any."""
    stalls: int = 0
    due: float | None = None
    """As in `LogInfo`."""
    mail: list[Posted] = attrs.field(factory=list)
    keys: dict[tuple[str, str], int] = attrs.field(factory=dict)
    """The numbers of the messages that have a key, by channel and key."""
    mail_taken: int = 0
    """How many messages there were when it was last taken."""
    place: Place = NOWHERE
    """What the index of claims knows of it."""
    tags: dict[str, str] = attrs.field(factory=dict)
    """The tags of its root run, once it has events."""

    def __attrs_post_init__(self) -> None:
        base = self.base
        if base is not None:
            over = base.jump or base
            far = over.jump or over
            self.depth = base.depth + 1
            self.jump = far if base.depth - over.depth == over.depth - far.depth and base.jump else base
            shares_marks = bool(base.marks) and base.marks[0].seq < self.start
            self.marked = (base, self.start) if shares_marks else base.marked

    def lineage(self) -> list[tuple[MemoryLog, int]]:
        """The logs that contain its events, oldest first, each with the number at which its part stops."""
        log, stop = self, sys.maxsize
        parts = [(log, stop)]
        while log.base is not None:
            log, stop = log.base, min(stop, log.start)
            parts.append((log, stop))
        return parts[::-1]

    def owner(self, seq: int) -> MemoryLog:
        """The log that its event of this number was written to."""
        log = self
        while log.base is not None and log.jump is not None and seq < log.start:
            log = log.jump if seq < log.jump.start else log.base
        return log

    def info(self) -> LogInfo:
        """Its state."""
        return LogInfo(
            self.root_id,
            self.epoch,
            self.last,
            self.sealed,
            holder=HOLDER if self.held else None,
            alive=self.held,
            parent=self.parent.root_id if self.parent else None,
            parent_at=self.start - 1 if self.parent else None,
            stalls=self.stalls,
            due=self.due,
        )

    def current_place(self) -> Place:
        """What the index of claims should know of it."""
        if self.last < 0:
            return NOWHERE
        if self.held:
            return Place("held")
        may_be_claimed = not (self.sealed or has_ended(self.end)) and self.stalls < MOST_STALLS
        was_forked_only = self.parent is not None and not self.epoch
        if was_forked_only or not may_be_claimed:
            return NOWHERE
        return Place("ready") if self.due is None else Place("waiting", self.due)

    def put(self, channel: str, data: bytes, key: str | None, at: float) -> int:
        """Put a message into its mailbox, which makes it due, and return the number of the message."""
        number = len(self.mail)
        if key is not None:
            self.keys[channel, key] = number
        self.mail.append(Posted(number, channel, data, key, at))
        self.due = None
        return number

    def event(self, seq: int) -> StoredEvent:
        """The event of a number that it has."""
        owner = self.owner(seq)
        return owner.events[seq - owner.start]

    def summary(self) -> LogSummary:
        """Its summary, once it has events."""
        return LogSummary(self.info(), self.event(0), self.begun(), self.event(self.last).at, self.end)

    def begun(self) -> float:
        """The time of its first own event, or of the last that it shares while it has none."""
        return self.event(min(self.start, self.last)).at

    def shelves(self) -> list[Shelf]:
        """The shelves that it is on whatever its state, once it has events."""
        name, self.tags = name_and_tags(self.event(0))
        return [ALL, *labels(name, self.tags.items())]
