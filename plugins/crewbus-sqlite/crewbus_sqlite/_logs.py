"""The table ``logs``: one row for each root run."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from crewbus.exceptions import FencedError, RunIdInUseError, RunNotFoundError
from crewbus.stores import ENDS, PROGRESS, StoredEvent
from crewbus_sqlite import _meta, _runs, _tails
from crewbus_sqlite._checksums import corrupt, require, sum_of, sum_of_text
from crewbus_sqlite._placeholders import marks, pieces
from crewbus_sqlite._schema import SEQ_BITS

FIRST_COLUMNS: Final = "id, root_id, epoch, last, sealed, holder, parent, parent_at, forks"
"""Those of version 1."""
SECOND_COLUMNS: Final = f"{FIRST_COLUMNS}, base, depth, jump, origin, begun, at, ended, outcome"
_SELECT: Final = f"SELECT {SECOND_COLUMNS}, stalls, due, messages, known, sum FROM logs"

# A base has a lower id than what is based on it.
_BASES: Final = (
    "WITH RECURSIVE above(log) AS (SELECT base FROM logs WHERE id = ? UNION ALL "
    "SELECT base FROM above JOIN logs ON id = log WHERE parent_at > ? AND base < id) "
    f"{_SELECT} JOIN above ON id = log ORDER BY id DESC"
)

RESUMED: Final = "crewbus.RunResumed"

Stored = tuple[Any, ...]
"""The columns of a row as they are in the file, its digest the last."""
LAST: Final = 3
"""The position among them of the number of the last event."""
AT: Final = 14
"""The position of the time of that."""


class LogRow(NamedTuple):
    """The state of a log: see the comments in the table."""

    id: int
    root_id: str
    epoch: int = 0
    last: int = -1
    sealed: int = 0
    holder: str | None = None
    parent: int | None = None
    parent_at: int = -1
    forks: int = 0
    base: int | None = None
    depth: int = 0
    jump: int | None = None
    origin: int = 0
    begun: float | None = None
    at: float | None = None
    ended: int = -1
    outcome: str | None = None
    stalls: int = 0
    due: float | None = None
    messages: int = 0
    known: int = 0

    def after(self, events: Sequence[StoredEvent]) -> LogRow:
        """The state after more events."""
        if not events:
            return self
        ended, outcome, stalls = self.ended, self.outcome, self.stalls
        for event in events:
            if event.name in PROGRESS:
                stalls = 0
            if event.name in ENDS:
                if event.run_id == self.root_id:
                    ended, outcome = event.seq, event.name
            elif event.name == RESUMED:
                ended, outcome = -1, None
        begun = time_of(events[0]) if self.last == self.parent_at else self.begun
        last, at = events[-1].seq, time_of(events[-1])
        return self._replace(last=last, begun=begun, at=at, ended=ended, outcome=outcome, stalls=stalls)

    def grown(self, last: int, at: float) -> LogRow:
        """The state after more events of which none is a landmark. There are events of its own already."""
        when = None if math.isnan(at) else at
        return LogRow._make((*self[:LAST], last, *self[LAST + 1 : AT], when, *self[AT + 1 :]))

    def taken(self, holder: str) -> LogRow:
        """The state once a holder has taken it over."""
        return self._replace(
            epoch=self.epoch + 1,
            sealed=0,
            holder=holder,
            stalls=self.stalls + 1,
            due=None,
            known=self.messages,
        )


class Part(NamedTuple):
    """Events that are stored in one log: those of ``log`` numbered from ``first`` to ``last``."""

    log: int
    first: int
    last: int


def find(connection: sqlite3.Connection | None, root_id: str) -> LogRow:
    """The log of a root run; raises `RunNotFoundError`."""
    log = _runs.log_of(connection, root_id) if connection is not None and storable(root_id) else None
    row = None if connection is None or log is None else load(connection, log)
    if row is None or row.root_id != root_id:
        raise RunNotFoundError(f"run {root_id} is not recorded in this store")
    return row


def grown(connection: sqlite3.Connection, logs: Sequence[LogRow]) -> list[LogRow]:
    """The logs as they are, with what is in the table of tails; raises `CorruptRecordError`."""
    tails = _tails.after(connection, {log.id: log.last for log in logs})
    return [log.grown(tails[log.id][-1].last, tails[log.id][-1].at) if log.id in tails else log for log in logs]


def current(connection: sqlite3.Connection | None, root_id: str) -> LogRow:
    """The log of a root run, with what is in the table of tails; raises `RunNotFoundError`."""
    log = find(connection, root_id)
    assert connection is not None
    return grown(connection, [log])[0]


def load(connection: sqlite3.Connection, log: int) -> LogRow:
    """The log with an id that another row refers to; raises `CorruptRecordError` if there is none."""
    row = _one(connection, log)
    if row is None:
        raise corrupt(f"in the table logs, the row {log} is missing")
    return row


def stored(connection: sqlite3.Connection, logs: Sequence[int]) -> dict[int, Stored]:
    """The rows of these logs that exist, by id, not verified yet."""
    found: dict[int, Stored] = {}
    for ids in pieces(logs):
        query = f"{_SELECT} WHERE id IN {marks([ids], len(ids))}"
        found.update((columns[0], columns) for columns in connection.execute(query, ids))
    return found


def are_there(connection: sqlite3.Connection, known: Sequence[Stored]) -> bool:
    """Whether all of these rows are in the file. One row is read, since reading each lets other threads run first."""
    found = 0
    for piece in pieces(known):
        query = (
            f"SELECT count(*) FROM (VALUES {marks(piece, 2)}) AS known "
            "CROSS JOIN logs ON logs.id = known.column1 AND logs.sum = known.column2"
        )
        ((count,),) = connection.execute(query, [value for row in piece for value in (row[0], row[-1])]).fetchall()
        found += count
    return found == len(known)


def written_by(connection: sqlite3.Connection, columns: Stored | None, root_id: str, epoch: int) -> LogRow:
    """The log to write with an epoch. ``columns`` are its `stored` row.

    Raises `FencedError` if another process took or dropped the log.
    """
    row = None if columns is None else checked(columns)
    if row is None:
        raise FencedError(f"run {root_id} was dropped by another process: writes of this one are rejected")
    if row.epoch != epoch:
        raise FencedError(f"run {root_id} was taken over{_by(connection, row)}: writes of this process are rejected")
    return row


def _by(connection: sqlite3.Connection, row: LogRow) -> str:
    names = connection.execute("SELECT name FROM holders WHERE token = ?", (row.holder,)).fetchall()
    return f" by {names[0][0]}" if names else ""


def load_all(connection: sqlite3.Connection, logs: Sequence[int]) -> list[LogRow]:
    """Like `load`, many at once, in this order."""
    found = stored(connection, logs)
    for log in logs:
        if log not in found:
            raise corrupt(f"in the table logs, the row {log} is missing")
    return [checked(found[log]) for log in logs]


def every(connection: sqlite3.Connection) -> list[LogRow]:
    """All logs, oldest first."""
    rows = [checked(row) for row in connection.execute(f"{_SELECT} ORDER BY id").fetchall()]
    _require_all(rows, _meta.load(connection).logs, "the table logs")
    return rows


def forks_of(connection: sqlite3.Connection, parent: LogRow) -> list[LogRow]:
    """The logs forked from one, oldest first."""
    query = f"{_SELECT} WHERE parent = ? ORDER BY id"
    rows = [checked(row) for row in connection.execute(query, (parent.id,)).fetchall()]
    _require_all(rows, parent.forks, f"the forks of run {parent.root_id}")
    return rows


def held_by(connection: sqlite3.Connection, token: str) -> list[LogRow]:
    """The logs that a holder holds."""
    return [checked(row) for row in connection.execute(f"{_SELECT} WHERE holder = ?", (token,)).fetchall()]


def parts(connection: sqlite3.Connection, log: LogRow, after: int = -1) -> list[tuple[LogRow, Part]]:
    """Where the events numbered above ``after`` are stored, oldest first; for a fork, with those of its ancestors."""
    found, last = [], log.last
    for row in (log, *_bases(connection, log, after)):
        found.append((row, Part(row.id, min(row.parent_at, last) + 1, last)))
        last = min(last, row.parent_at)
    return found[::-1]


def _bases(connection: sqlite3.Connection, log: LogRow, after: int) -> list[LogRow]:
    """The bases of a log, one above the other, up to the one that the event after ``after`` is in."""
    found: list[LogRow] = []
    for columns in connection.execute(_BASES, (log.id, after)).fetchall():
        above, row = found[-1] if found else log, checked(columns)
        if row.id != above.base or row.last < above.parent_at:
            break
        found.append(row)
    above = found[-1] if found else log
    if above.base is not None and above.parent_at > after:
        raise corrupt(f"run {above.root_id} shares events up to {above.parent_at}, which another run does not have")
    return found


def owner(connection: sqlite3.Connection, log: LogRow, seq: int) -> LogRow:
    """The log that the event of this number, which a log has, is stored in."""
    while seq <= log.parent_at:
        if log.base is None or log.jump is None:
            raise corrupt(f"run {log.root_id} shares events, but not with another run")
        far = _older(connection, log, log.jump)
        if seq > far.parent_at and log.base != log.jump:
            far = _older(connection, log, log.base)
        if far.last < min(seq, log.parent_at):
            raise corrupt(f"run {far.root_id} ends with event {far.last}, but has forks that need more")
        log = far
    return log


def based(connection: sqlite3.Connection, log: LogRow, base: LogRow) -> LogRow:
    """A fork with its base, and with a jump to one above, as in a skew-binary list: any is few jumps away."""
    jump = base
    if base.jump is not None:
        over = load(connection, base.jump)
        far = over if over.jump is None else load(connection, over.jump)
        if base.depth - over.depth == over.depth - far.depth:
            jump = far
    return log._replace(base=base.id, depth=base.depth + 1, jump=jump.id)


def _older(connection: sqlite3.Connection, log: LogRow, other: int) -> LogRow:
    if other >= log.id:
        raise corrupt(f"run {log.root_id} is older than the one it was forked from")
    return load(connection, other)


def parent_of(connection: sqlite3.Connection, log: LogRow) -> LogRow | None:
    """The log that a log was forked from, or None."""
    if log.parent is None:
        return None
    return _older(connection, log, log.parent)


def lineage(connection: sqlite3.Connection, log: LogRow) -> list[LogRow]:
    """The logs that a log descends from by forks, nearest first."""
    found = []
    while (parent := parent_of(connection, log)) is not None:
        found.append(parent)
        log = parent
    return found


def create(connection: sqlite3.Connection, log: LogRow) -> LogRow:
    """Add a log, with the next id; raises `RunIdInUseError` if that run is recorded already."""
    meta = _meta.load(connection)
    log = log._replace(id=meta.next_log, origin=log.origin or meta.next_log)
    _meta.save(connection, meta._replace(logs=meta.logs + 1, next_log=log.id + 1))
    if _runs.log_of(connection, log.root_id) is not None:
        raise in_use(log.root_id)
    _runs.claim(connection, log.root_id, log.id)
    save(connection, log)
    return log


def save(connection: sqlite3.Connection, *logs: LogRow) -> list[Stored]:
    """Write rows, and return them as stored."""
    rows: list[Stored] = [(*log, sum_of("logs", log)) for log in logs]
    for piece in pieces(rows):
        connection.execute(f"INSERT OR REPLACE INTO logs VALUES {marks(piece, len(piece[0]))}", list(chain(*piece)))
    return rows


class SumTexts(NamedTuple):
    """What the digests of a row are made of that only grows, apart from its last event: `sum_of` takes that long."""

    head: str
    middle: str
    tail: str

    @classmethod
    def of(cls, log: LogRow) -> SumTexts:
        """Those of a row."""
        head, middle, tail = map(repr, (("logs", *log[:LAST]), log[LAST + 1 : AT], log[AT + 1 :]))
        return cls(head[:-1], middle[1:-1], tail[1:-1])

    def sum(self, log: LogRow) -> bytes:
        """The digest of the row once it has grown."""
        return sum_of_text(f"{self.head}, {log.last}, {self.middle}, {log.at!r}, {self.tail})")


def update(connection: sqlite3.Connection, logs: Sequence[tuple[LogRow, SumTexts]]) -> list[Stored]:
    """Write rows that have only `grown`, and return them as stored: no index has the columns that differ."""
    rows: list[Stored] = [(*log, texts.sum(log)) for log, texts in logs]
    for piece in pieces(rows):
        connection.execute(
            "UPDATE logs SET last = grown.column2, at = grown.column3, sum = grown.column4 "
            f"FROM (VALUES {marks(piece, 4)}) AS grown WHERE logs.id = grown.column1",
            [value for row in piece for value in (row[0], row[LAST], row[AT], row[-1])],
        )
    return rows


def save_damaged(connection: sqlite3.Connection, log: LogRow) -> None:
    """Write a row that was damaged when it was read: it stays so."""
    row = (*log, b"damaged")
    connection.execute(f"INSERT INTO logs VALUES {marks([row], len(row))}", row)


def delete(connection: sqlite3.Connection, log: LogRow) -> None:
    """Remove a log with its events, and free the ids of the runs in it."""
    span = log.id << SEQ_BITS, (log.id + 1) << SEQ_BITS
    runs = connection.execute("SELECT DISTINCT run_id FROM events WHERE id >= ? AND id < ?", span).fetchall()
    for run_id in {log.root_id, *(run_id for (run_id,) in runs)}:
        _runs.free(connection, run_id, log.id)
    connection.execute("DELETE FROM events WHERE id >= ? AND id < ?", span)
    connection.execute("DELETE FROM messages WHERE log = ?", (log.id,))
    connection.execute("DELETE FROM logs WHERE id = ?", (log.id,))
    meta = _meta.load(connection)
    _meta.save(connection, meta._replace(logs=meta.logs - 1))
    if log.parent is not None:
        parent = load(connection, log.parent)
        save(connection, parent._replace(forks=parent.forks - 1))


def in_use(run_id: str) -> RunIdInUseError:
    """The error for an id that is recorded already."""
    return RunIdInUseError(f"run {run_id} is recorded already: choose another id")


def time_of(event: StoredEvent) -> float | None:
    """When an event happened, as a column has it: None for what is not a number."""
    return None if math.isnan(event.at) else event.at


def storable(text: str) -> bool:
    """Whether SQLite can store a text: it can't store lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _one(connection: sqlite3.Connection, log: int) -> LogRow | None:
    rows = connection.execute(f"{_SELECT} WHERE id = ?", (log,)).fetchall()
    return checked(rows[0]) if rows else None


def checked(columns: Stored) -> LogRow:
    """A row that was read; raises `CorruptRecordError` if it is not as it was written."""
    row = LogRow(*columns[:-1])
    require("logs", row, columns[-1])
    return row


def _require_all(rows: list[LogRow], count: int, what: str) -> None:
    ids = [row.id for row in rows]
    if len(ids) != count or ids != sorted(set(ids)):
        raise corrupt(f"{what} should be {count} rows, and are {len(set(ids))}")
