"""What stores keep, in the form in which they take and return it."""

from __future__ import annotations

from typing import Final, NamedTuple

import attrs

__all__ = ["MOST_STALLS", "Backlog", "LogInfo", "LogPart", "Posted", "StoredEvent"]

MOST_STALLS: Final = 5
"""How often a log is taken over without progress until no claim takes it any more: `LogInfo.stalls`."""


class StoredEvent(NamedTuple):
    """One encoded event of a record: a row, as a backend stores it.

    ``name`` and ``version`` identify the event type, ``data`` is the event's JSON in UTF-8, and ``source`` is the
    name of the emitter. The other fields are those of `crewbus.Envelope`.
    """

    run_id: str
    seq: int
    parent: str | None
    at: float
    source: str | None
    attempt: int
    name: str
    version: int
    data: bytes


class LogInfo(NamedTuple):
    """The state of a log."""

    root_id: str
    epoch: int
    """How many times the log was taken, by `Store.begin` and each `Store.acquire`; 0 for an untaken fork."""
    last: int
    """The number of its last event; -1 if it has none."""
    sealed: bool
    """Whether `Store.finish` was called, and `Store.acquire` was not called since."""
    holder: str | None = None
    """A description of the holder, such as ``process 12 on host``; None if the log has no holder."""
    until: float | None = None
    """When the lease ends unless it is renewed, in seconds since the epoch (UTC); None if it never ends, or there is no
    holder."""
    alive: bool = False
    """Whether the log has a holder who is known to be alive, or whose lease has not ended and who is not known to be
    dead or stopped: see `crewbus.stores.liveness`."""
    parent: str | None = None
    """The root run that the log was forked from, or None."""
    parent_at: int | None = None
    """The number of the last event that a fork shares with its parent, or None."""
    stalls: int = 0
    """How often `Store.acquire` or `Store.claim` took it since its run last got on: since an event of a type in
    `PROGRESS`, or since it was sealed. 0 in a store that does not count them."""
    due: float | None = None
    """When `Store.claim` may take it, in seconds since the epoch (UTC) by the clock of the store; None: at once, or it
    has a holder."""

    @property
    def queued(self) -> bool:
        """Whether nobody has begun its run, which `Store.create` planted for whoever takes it."""
        return self.epoch == 0 and self.parent is None

    @property
    def is_stuck(self) -> bool:
        """Whether it was taken over so often without progress that it is left to an operator."""
        return self.stalls >= MOST_STALLS

    def is_due(self, now: float) -> bool:
        """Whether it may be taken at this time, in seconds since the epoch, as far as `due` says."""
        return self.due is None or self.due <= now


@attrs.frozen
class Backlog:
    """What a store has accepted and not written yet."""

    events: int = 0
    bytes: int = 0
    """How much memory they take, estimated."""
    seconds: float = 0.0
    """For how long the oldest of them has waited."""


class Posted(NamedTuple):
    """A message in the mailbox of a log."""

    number: int
    """Messages of a log are numbered from 0, in the order in which they arrived."""
    channel: str
    data: bytes
    key: str | None
    """By which the sender makes sure that it is posted once, or None."""
    at: float
    """When it arrived, in seconds since the epoch (UTC) by the clock of the store."""


class LogPart(NamedTuple):
    """The events of a log that were written to one log: to itself, or to one that it was forked from."""

    root_id: str
    """The root run whose log they were written to."""
    first: int
    """The number of the first one; ``last + 1`` if there is none, as in a fork that nothing was written to yet."""
    last: int
