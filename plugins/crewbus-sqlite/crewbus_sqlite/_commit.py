"""Batches: what one transaction writes of each log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import NamedTuple

import attrs

from crewbus.exceptions import CrewbusError
from crewbus.stores import LANDMARKS, Segment, StoredEvent, fold
from crewbus_sqlite import _labels, _logs, _runs
from crewbus_sqlite._checksums import corrupt
from crewbus_sqlite._events import NONE, EventRow, Latest, encoded, insert
from crewbus_sqlite._labels import Additions
from crewbus_sqlite._logs import LogRow, Stored, SumTexts

Notify = Callable[[BaseException | None], None]
Call = tuple[Notify, BaseException | None]
"""A callback, and what it receives."""


class Rows(NamedTuple):
    """Rows of events: those of segments that others were added to, and new ones."""

    replacing: list[EventRow]
    new: list[EventRow]


@attrs.define(eq=False)
class Log:
    """A log that this store writes: what is on disk, and what is queued."""

    root_id: str
    epoch: int
    held_at: float
    """When this store last saw that it holds it, by `clock`, in a transaction that kept others from taking it."""
    id: int | None = None
    """None until it is on disk."""
    written_to: int = -1
    """The number of the last event that is certainly on disk."""
    taken_to: int = -1
    """The number of the last event that a batch took from the queue."""
    before: Latest = NONE
    """The last landmark and mark on disk."""
    stored: Stored | None = None
    """Its row in the table of logs, as this store last wrote it."""
    segment: Segment | None = None
    """The last one that this store wrote: it is written again with what follows, as far as that goes into it."""
    row: LogRow | None = None
    """What `stored` says."""
    texts: SumTexts | None = None
    """Of that row, once it has grown."""
    like: StoredEvent | None = None
    """An event that was checked: another that shares its texts and numbers needs no check."""
    runs: set[str] = attrs.field(factory=set)
    finishing: bool = False
    ticket: int = 0
    """The ticket of its last queued write."""
    error: CrewbusError | None = None
    """Why it is no longer written: another process took or dropped it."""
    events: list[StoredEvent] = attrs.field(factory=list)
    size: int = 0
    """The bytes they take in memory, estimated."""
    new_runs: list[str] = attrs.field(factory=list)
    waiting: list[tuple[int, Notify]] = attrs.field(factory=list)

    @property
    def last(self) -> int:
        """The number of the last event that was accepted."""
        return self.events[-1].seq if self.events else self.taken_to

    def take_batch(self) -> Batch:
        """Take everything that is queued."""
        self.taken_to = self.last
        batch = Batch(self, self.events, self.size, self.new_runs, self.finishing)
        self.events, self.size, self.new_runs = [], 0, []
        return batch

    def take_due(self, ticket: int) -> list[Call]:
        """Remove and return the callbacks that are due."""
        now = [notify for at, notify in self.waiting if at <= ticket or self.error is not None]
        self.waiting = [(at, notify) for at, notify in self.waiting if at > ticket and self.error is None]
        return [(notify, self.error) for notify in now]


@attrs.define(eq=False)
class Batch:
    """Queued writes of a log, and their outcome."""

    log: Log
    events: list[StoredEvent]
    size: int
    new_runs: list[str]
    finishing: bool
    segments: list[Segment] = attrs.field(factory=list)
    """What its events are in: the first one may be the last that is on disk, which they were added to."""
    held_at: float = 0.0
    id: int | None = None
    before: Latest = NONE
    stored: Stored | None = None
    row: LogRow | None = None
    texts: SumTexts | None = None
    error: CrewbusError | None = None

    def fold(self) -> None:
        """Put the events into segments. From now on the last segment of the log is ahead of the disk."""
        self.segments = fold(self.events, self.log.segment)

    @property
    def only_adds(self) -> bool:
        """Whether it only adds events of known runs, none of them a landmark, to a log that has events of its own."""
        row = self.log.row
        return (
            row is not None
            and row.last > row.parent_at
            and not self.new_runs
            and not self.finishing
            and len(self.events) > 0
            and not any(segment.first.name in LANDMARKS for segment in self.segments)
        )

    @property
    def writes(self) -> bool:
        """Whether there is something to write; if not, the log is only looked at."""
        return bool(self.events or self.new_runs or self.finishing)

    def put_back(self) -> None:
        """Queue it again after a failure."""
        log = self.log
        log.events[:0] = self.events
        log.size += self.size
        log.new_runs[:0] = self.new_runs
        log.segment = None  # it is on disk as it was

    def report(self) -> None:
        """Report the outcome to the log."""
        log = self.log
        log.error = self.error
        if self.error is None:
            log.held_at = self.held_at
            log.id, log.before = self.id, self.before
            log.stored, log.row, log.texts = self.stored, self.row, self.texts
            if self.events:
                log.written_to = self.events[-1].seq
                log.segment = self.segments[-1]
        else:
            log.events.clear()
            log.size = 0
            log.new_runs.clear()

    def write(self, connection: sqlite3.Connection, token: str, additions: Additions) -> None:
        """Write it, inside the caller's transaction, for the holder ``token``. A new log is in ``additions`` then.

        An error of this log is kept in ``error`` and leaves the log unchanged; the other logs are still written.
        """
        self.error = None
        connection.execute("SAVEPOINT log")
        try:
            stored = _stored(connection, [self.log])
            row = self.row_before(connection, stored, token)
            rows = self.rows(row)
            insert(connection, rows.replacing, replacing=True)
            insert(connection, rows.new)
            for run_id in self.new_runs:
                _runs.claim(connection, run_id, row.id)
            after = row.after(self.events)
            if self.finishing:
                after = after._replace(sealed=1, holder=None, stalls=0)
            if self.writes or row.id not in stored:
                (self.stored,) = _logs.save(connection, after)
            else:
                self.stored = stored[row.id]
            self.row = after
            if row.last >= 0:
                _labels.update(connection, row, after)
            elif self.events:
                additions.add(after, self.events[0])
        except CrewbusError as error:
            connection.execute("ROLLBACK TO log")
            self.error = error
        connection.execute("RELEASE log")

    def row_before(self, connection: sqlite3.Connection, stored: dict[int, Stored], token: str) -> LogRow:
        """The log's current row, from `_stored`; a new log is created. Raises if it can't be written to."""
        log = self.log
        if log.id is None:
            row = _logs.create(connection, LogRow(0, log.root_id, log.epoch, holder=token))
        elif log.row is not None and stored.get(log.id) is log.stored:
            row = log.row
        else:
            row = _logs.written_by(connection, stored.get(log.id), log.root_id, log.epoch)
        if self.events and self.events[0].seq != row.last + 1:
            raise corrupt(
                f"run {row.root_id} ends with event {row.last}, although event {self.events[0].seq - 1} was written"
            )
        return row

    def rows(self, row: LogRow) -> Rows:
        """The rows of its events."""
        log, segments = self.log, self.segments
        self.id, self.before = row.id, log.before
        rows = encoded(row.id, row.epoch, segments, log.before)
        for segment in segments:
            self.before = self.before.after(segment.first)
        replaces = bool(segments) and segments[0] is log.segment
        return Rows(rows[:1], rows[1:]) if replaces else Rows([], rows)


def write(connection: sqlite3.Connection, batches: list[Batch], token: str) -> None:
    """Write all batches, inside the caller's transaction, for the holder ``token``; each keeps its own error.

    Batches that only add events are written together: with a thousand runs each has few events in a transaction, and
    a statement costs more than an event.
    """
    together: list[Batch] = []
    alone: list[Batch] = []
    for batch in batches:
        batch.fold()
        (together if batch.only_adds else alone).append(batch)
    _write_together(connection, together, token)
    additions = Additions()
    for batch in alone:
        batch.write(connection, token, additions)
    additions.save(connection)


def _write_together(connection: sqlite3.Connection, batches: list[Batch], token: str) -> None:
    stored = _stored(connection, [batch.log for batch in batches])
    ready: list[Batch] = []
    replacing, new, after = list[EventRow](), list[EventRow](), list[tuple[LogRow, SumTexts]]()
    for batch in batches:
        batch.error = None
        try:
            row = batch.row_before(connection, stored, token)
        except CrewbusError as error:
            batch.error = error
            continue
        rows = batch.rows(row)
        replacing += rows.replacing
        new += rows.new
        batch.row = row.grown(batch.events[-1])
        batch.texts = batch.log.texts if row is batch.log.row else None
        batch.texts = batch.texts or SumTexts.of(row)
        after.append((batch.row, batch.texts))
        ready.append(batch)
    insert(connection, replacing, replacing=True)
    insert(connection, new)
    for batch, columns in zip(ready, _logs.update(connection, after), strict=True):
        batch.stored = columns


def _stored(connection: sqlite3.Connection, logs: list[Log]) -> dict[int, Stored]:
    """The rows of logs that are on disk, by id: mostly unchanged since this store wrote them, and then the same."""
    known = [log.stored for log in logs if log.stored is not None]
    if len(known) == len(logs) and _logs.are_there(connection, known):
        return {row[0]: row for row in known}
    return _logs.stored(connection, [log.id for log in logs if log.id is not None])
