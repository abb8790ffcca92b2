"""Batches: what one transaction writes of each log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import NamedTuple

import attrs

from crewbus.exceptions import CrewbusError
from crewbus.stores import LANDMARKS, Segment, StoredEvent, fold
from crewbus_sqlite import _labels, _logs, _runs, _tails
from crewbus_sqlite._checksums import corrupt
from crewbus_sqlite._events import NONE, EventRow, Latest, encoded, insert
from crewbus_sqlite._labels import Additions
from crewbus_sqlite._logs import LogRow, Stored, SumTexts
from crewbus_sqlite._tails import Tail

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
    seen_in: int = 0
    """The state of the file, as `write` numbers them, in which that row was there."""
    segment: Segment | None = None
    """The last one that this store wrote: it is written again with what follows, as far as that goes into it."""
    has_tail: bool = False
    """Whether its last events are in tails, and not in the row of that segment."""
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
    former: tuple[int, tuple[bytes, bytes], bytes, bytes] | None = None
    """What the last segment on disk was before these events were added."""
    segments: list[Segment] = attrs.field(factory=list)
    """What its events are in: the first one may be the last that is on disk, which they were added to."""
    held_at: float = 0.0
    id: int | None = None
    before: Latest = NONE
    stored: Stored | None = None
    row: LogRow | None = None
    texts: SumTexts | None = None
    to_tail: bool = False
    state: int = 0
    error: CrewbusError | None = None

    def fold(self) -> None:
        """Put the events into segments. From now on the last segment of the log is ahead of the disk."""
        last = self.log.segment
        former = self.former = None if last is None else last.state
        self.segments = fold(self.events, last)
        self.to_tail = len(self.segments) == 1 and self.segments[0] is last and former is not None and former[0] > 1

    @property
    def only_adds(self) -> bool:
        """Whether it only adds events of known runs, none of them a landmark, to a log that has events of its own."""
        log = self.log
        row = log.row
        return (
            row is not None
            and row.last > row.parent_at
            and not self.new_runs
            and not self.finishing
            and (len(self.events) > 0 or log.has_tail)
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
        if log.segment is not None and self.former is not None:
            log.segment.restore(self.former)

    def report(self) -> None:
        """Report the outcome to the log."""
        log = self.log
        log.error = self.error
        if self.error is None:
            log.held_at = self.held_at
            log.id, log.before = self.id, self.before
            log.stored, log.row, log.texts = self.stored, self.row, self.texts
            log.seen_in, log.has_tail = self.state, self.to_tail
            if self.events:
                log.written_to = self.events[-1].seq
                log.segment = self.segments[-1]
        else:
            log.events.clear()
            log.size = 0
            log.new_runs.clear()

    def write(self, connection: sqlite3.Connection, token: str, state: int, additions: Additions) -> None:
        """Write it, inside the caller's transaction, for the holder ``token``. A new log is in ``additions`` then.

        An error of this log is kept in ``error`` and leaves the log unchanged; the other logs are still written.
        """
        self.error, log = None, self.log
        connection.execute("SAVEPOINT log")
        try:
            stored = _stored(connection, [log], state)
            row = self.row_before(connection, stored, token)
            rows = self.rows(row)
            insert(connection, rows.replacing, replacing=True)
            insert(connection, rows.new)
            for run_id in self.new_runs:
                _runs.claim(connection, run_id, row.id)
            now = row if log.segment is None or not log.has_tail else row.grown(log.written_to, log.segment.at)
            after = now.after(self.events)
            if self.finishing:
                after = after._replace(sealed=1, holder=None, stalls=0)
            if self.writes or log.has_tail or row.id not in stored:
                (self.stored,) = _logs.save(connection, after)
            else:
                self.stored = stored[row.id]
            self.row, self.texts = after, None  # a landmark changes what only grows otherwise
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
        self.stored, self.texts = stored.get(row.id), log.texts if row is log.row else None
        least = log.row.last if log.row is not None and log.has_tail else log.written_to
        if not least <= row.last <= log.written_to:
            raise corrupt(f"run {row.root_id} ends with event {row.last}, although event {log.written_to} was written")
        return row

    def rows(self, row: LogRow) -> Rows:
        """The rows of its events, and of the last one on disk that has a tail."""
        log, segments = self.log, self.segments
        self.id, self.before, self.to_tail = row.id, log.before, False
        if log.has_tail and log.segment is not None and segments[:1] != [log.segment]:
            segments = [log.segment, *segments]
        rows = encoded(row.id, row.epoch, segments, log.before)
        for segment in segments:
            self.before = self.before.after(segment.first)
        replaces = bool(segments) and segments[0] is log.segment
        return Rows(rows[:1], rows[1:]) if replaces else Rows([], rows)

    def tail(self, row: LogRow) -> Tail:
        """What its events add to the last segment, for the table of tails."""
        log, (segment,) = self.log, self.segments
        assert self.former is not None
        self.id, self.before, self.row = row.id, log.before, row
        return Tail(row.id, self.events[0].seq, len(self.events), self.events[-1].at, segment.tail(self.former))


def write(connection: sqlite3.Connection, batches: list[Batch], token: str, state: int, settling: bool) -> int:
    """Write all batches, inside the caller's transaction, for the holder ``token``; each keeps its own error.

    Batches that only add events are written together: with a thousand runs each has few events in a transaction, and
    a statement costs more than an event. What only makes the last row of a log longer goes into one row for all, unless
    the logs are ``settling``. ``state``: a number that stays while nobody but this function changes the file. Returns
    how many rows for all it wrote.
    """
    tails: list[Batch] = []
    together: list[Batch] = []
    alone: list[Batch] = []
    for batch in batches:
        batch.state = state
        batch.fold()
        if not batch.only_adds:
            alone.append(batch)
        elif batch.to_tail and not settling:
            tails.append(batch)
        else:
            together.append(batch)
    added = _write_tails(connection, tails, token, state)
    _write_together(connection, together, token, state)
    additions = Additions()
    for batch in alone:
        batch.write(connection, token, state, additions)
    additions.save(connection)
    return added


def _with_rows(
    connection: sqlite3.Connection, batches: list[Batch], token: str, state: int
) -> Iterator[tuple[Batch, LogRow]]:
    """The batches that may be written, and the rows of their logs; the others get their error."""
    stored = _stored(connection, [batch.log for batch in batches], state)
    for batch in batches:
        batch.error = None
        try:
            row = batch.row_before(connection, stored, token)
        except CrewbusError as error:
            batch.error = error
        else:
            yield batch, row


def _write_tails(connection: sqlite3.Connection, batches: list[Batch], token: str, state: int) -> int:
    tails = [batch.tail(row) for batch, row in _with_rows(connection, batches, token, state)]
    if tails:
        _tails.insert(connection, tails)
    return len(tails) > 0


def _write_together(connection: sqlite3.Connection, batches: list[Batch], token: str, state: int) -> None:
    ready: list[Batch] = []
    replacing, new, after = list[EventRow](), list[EventRow](), list[tuple[LogRow, SumTexts]]()
    for batch, row in _with_rows(connection, batches, token, state):
        rows = batch.rows(row)
        replacing += rows.replacing
        new += rows.new
        last = batch.segments[-1] if batch.segments else batch.log.segment
        assert last is not None
        batch.row = row.grown(last.last, last.at)
        batch.texts = batch.texts or SumTexts.of(row)
        after.append((batch.row, batch.texts))
        ready.append(batch)
    insert(connection, replacing, replacing=True)
    insert(connection, new)
    for batch, columns in zip(ready, _logs.update(connection, after), strict=True):
        batch.stored = columns


def _stored(connection: sqlite3.Connection, logs: list[Log], state: int) -> dict[int, Stored]:
    """The rows of logs that are on disk, by id: mostly unchanged since this store wrote them, and then the same."""
    known = [log.stored for log in logs if log.stored is not None]
    unseen = [log.stored for log in logs if log.stored is not None and log.seen_in != state]
    if len(known) == len(logs) and _logs.are_there(connection, unseen):
        return {row[0]: row for row in known}
    return _logs.stored(connection, [log.id for log in logs if log.id is not None])
