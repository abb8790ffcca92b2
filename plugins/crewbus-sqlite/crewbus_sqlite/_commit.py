"""What one transaction writes of the logs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import chain

import attrs

from crewbus.exceptions import CrewbusError
from crewbus.stores import StoredEvent
from crewbus_sqlite import _ids, _logs
from crewbus_sqlite._events import NONE, EventRow, Latest, encoded, insert
from crewbus_sqlite._logs import LogRow, Stored
from crewbus_sqlite._sums import corrupt

Notify = Callable[[BaseException | None], None]


@attrs.define(eq=False)
class Log:
    """A log that this store writes: what is on disk, and what is to follow."""

    root_id: str
    epoch: int
    id: int | None = None
    """None until it is on disk."""
    taken_to: int = -1
    """The number of the last event that is no longer queued."""
    before: Latest = NONE
    """The last events of either kind on disk."""
    stored: Stored | None = None
    """What was left of it in the table of logs: its digest is known to be right."""
    runs: set[str] = attrs.field(factory=set)
    finishing: bool = False
    ticket: int = 0
    """Of the last thing that is to be written of it."""
    error: CrewbusError | None = None
    """Why nothing more is written: another process has it."""
    events: list[StoredEvent] = attrs.field(factory=list)
    size: int = 0
    """What they take in memory, in bytes, about."""
    new_runs: list[str] = attrs.field(factory=list)
    waiting: list[tuple[int, Notify]] = attrs.field(factory=list)

    @property
    def last(self) -> int:
        """The number of the last event that was accepted."""
        return self.events[-1].seq if self.events else self.taken_to

    def taken(self) -> Batch:
        """What there is to write, which is then no longer queued."""
        self.taken_to = self.last
        batch = Batch(self, self.events, self.size, self.new_runs, self.finishing)
        self.events, self.size, self.new_runs = [], 0, []
        return batch


@attrs.define(eq=False)
class Batch:
    """What is to be written of a log, and, once it is, what came of it."""

    log: Log
    events: list[StoredEvent]
    size: int
    new_runs: list[str]
    finishing: bool
    id: int | None = None
    before: Latest = NONE
    stored: Stored | None = None
    error: CrewbusError | None = None

    @property
    def goes_on(self) -> bool:
        """Whether it only adds events to a log that is on disk, of runs that are known to be in it."""
        return self.log.id is not None and not self.new_runs

    def put_back(self) -> None:
        """Queue it again: it was not written."""
        log = self.log
        log.events[:0] = self.events
        log.size += self.size
        log.new_runs[:0] = self.new_runs

    def settled(self) -> None:
        """Tell the log what came of it."""
        log = self.log
        log.error = self.error
        if self.error is None:
            log.id, log.before, log.stored = self.id, self.before, self.stored
        else:
            log.events.clear()
            log.size = 0
            log.new_runs.clear()

    def write(self, connection: sqlite3.Connection, token: str) -> None:
        """Write it, inside the caller's transaction, for the holder ``token``.

        If that can't be for reasons of this log it is left as it was: the others in the transaction are not harmed.
        """
        self.error = None
        connection.execute("SAVEPOINT log")
        try:
            row = self.row(connection, _stored(connection, [self.log]), token)
            insert(connection, self.rows(row))
            for run_id in self.new_runs:
                _ids.claim(connection, run_id, row.id)
            (self.stored,) = _logs.save(connection, self.following(row))
        except CrewbusError as error:
            connection.execute("ROLLBACK TO log")
            self.error = error
        connection.execute("RELEASE log")

    def row(self, connection: sqlite3.Connection, stored: dict[int, Stored], token: str) -> LogRow:
        """The log as it stands, of what is `_stored`; a new one is made. Raises why it can't be written to."""
        log = self.log
        if log.id is None:
            row = _logs.create(connection, LogRow(0, log.root_id, log.epoch, holder=token))
        else:
            row = _logs.written_by(connection, stored.get(log.id), log.stored, log.root_id, log.epoch)
        if self.events and self.events[0].seq != row.last + 1:
            raise corrupt(f"run {row.root_id} ends with event {row.last}, and {self.events[0].seq - 1} was written")
        return row

    def rows(self, row: LogRow) -> Iterator[EventRow]:
        """The rows of its events."""
        return encoded(row.id, row.epoch, self.events, self.log.before)

    def following(self, row: LogRow) -> LogRow:
        """The log as it stands when the events are written."""
        self.id, self.before = row.id, self.log.before
        for event in self.events:
            self.before = self.before.after(event)
        row = row._replace(last=self.events[-1].seq if self.events else row.last)
        return row._replace(sealed=1, holder=None) if self.finishing else row


def write(connection: sqlite3.Connection, batches: list[Batch], token: str) -> None:
    """Write all of them, inside the caller's transaction, for the holder ``token``; those that can't be say why.

    Those that only go on are written together: of a thousand runs each has but few events in a transaction, and a
    statement costs more than an event.
    """
    _write_together(connection, [batch for batch in batches if batch.goes_on], token)
    for batch in batches:
        if not batch.goes_on:
            batch.write(connection, token)


def _write_together(connection: sqlite3.Connection, batches: list[Batch], token: str) -> None:
    stored = _stored(connection, [batch.log for batch in batches])
    ready: list[tuple[Batch, LogRow]] = []
    for batch in batches:
        batch.error = None
        try:
            ready.append((batch, batch.row(connection, stored, token)))
        except CrewbusError as error:
            batch.error = error
    insert(connection, chain.from_iterable(batch.rows(row) for batch, row in ready))
    saved = _logs.save(connection, *(batch.following(row) for batch, row in ready))
    for (batch, _), columns in zip(ready, saved, strict=True):
        batch.stored = columns


def _stored(connection: sqlite3.Connection, logs: list[Log]) -> dict[int, Stored]:
    """What is stored of logs that are on disk, by id: mostly what this store left there, which no other has changed."""
    known = [log.stored for log in logs if log.stored is not None]
    if len(known) == len(logs) and _logs.are_there(connection, known):
        return {row[0]: row for row in known}
    return _logs.stored(connection, [log.id for log in logs if log.id is not None])
