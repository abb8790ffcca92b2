"""What one transaction writes of one log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import attrs

from crewbus.abc import StoredEvent
from crewbus.exceptions import CrewbusError
from crewbus_sqlite import _ids, _logs
from crewbus_sqlite._events import NONE, Latest, encoded, insert
from crewbus_sqlite._logs import LogRow
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
    runs: set[str] = attrs.field(factory=set)
    finishing: bool = False
    ticket: int = 0
    """Of the last thing that is to be written of it."""
    error: CrewbusError | None = None
    """Why nothing more is written: another process has it."""
    events: list[StoredEvent] = attrs.field(factory=list)
    new_runs: list[str] = attrs.field(factory=list)
    waiting: list[tuple[int, Notify]] = attrs.field(factory=list)

    @property
    def last(self) -> int:
        """The number of the last event that was accepted."""
        return self.events[-1].seq if self.events else self.taken_to

    def taken(self) -> Batch:
        """What there is to write, which is then no longer queued."""
        self.taken_to = self.last
        batch = Batch(self, self.events, self.new_runs, self.finishing)
        self.events, self.new_runs = [], []
        return batch


@attrs.define(eq=False)
class Batch:
    """What is to be written of a log, and, once it is, what came of it."""

    log: Log
    events: list[StoredEvent]
    new_runs: list[str]
    finishing: bool
    id: int | None = None
    before: Latest = NONE
    error: CrewbusError | None = None

    def put_back(self) -> None:
        """Queue it again: it was not written."""
        log = self.log
        log.events[:0] = self.events
        log.new_runs[:0] = self.new_runs

    def settled(self) -> None:
        """Tell the log what came of it."""
        log = self.log
        log.error = self.error
        if self.error is None:
            log.id, log.before = self.id, self.before
        else:
            log.events.clear()
            log.new_runs.clear()

    def write(self, connection: sqlite3.Connection, token: str) -> None:
        """Write it, inside the caller's transaction, for the holder ``token``.

        If that can't be for reasons of this log it is left as it was: the others in the transaction are not harmed.
        """
        self.error = None
        connection.execute("SAVEPOINT log")
        try:
            self._write(connection, token)
        except CrewbusError as error:
            connection.execute("ROLLBACK TO log")
            self.error = error
        connection.execute("RELEASE log")

    def _write(self, connection: sqlite3.Connection, token: str) -> None:
        row, events = self._row(connection, token), self.events
        if events and events[0].seq != row.last + 1:
            raise corrupt(f"run {row.root_id} ends with event {row.last}, and {events[0].seq - 1} was written")
        insert(connection, encoded(row.id, row.epoch, events, self.log.before))
        self.id, self.before = row.id, self.log.before
        for event in events:
            self.before = self.before.after(event)
        for run_id in self.new_runs:
            _ids.claim(connection, run_id, row.id)
        row = row._replace(last=events[-1].seq if events else row.last)
        if self.finishing:
            row = row._replace(sealed=1, holder=None)
        _logs.save(connection, row)

    def _row(self, connection: sqlite3.Connection, token: str) -> LogRow:
        log = self.log
        if log.id is None:
            return _logs.create(connection, LogRow(0, log.root_id, log.epoch, holder=token))
        return _logs.written_by(connection, log.id, log.root_id, log.epoch)
