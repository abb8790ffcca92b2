"""Reads the events of a log in pieces: between pieces no transaction is open, and no other thread waits."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final, NoReturn

from crewbus.exceptions import RunNotFoundError
from crewbus.stores import StoredEvent
from crewbus_sqlite import _logs
from crewbus_sqlite._checksums import corrupt
from crewbus_sqlite._database import Database
from crewbus_sqlite._events import BEFORE, COLUMNS, EventRow, Latest, decoded, latest_of, load
from crewbus_sqlite._logs import LogRow, Part
from crewbus_sqlite._schema import SEQ_BITS

FIRST_PIECE: Final = 16
PIECE: Final = 256
"""The most events that are read at once. The first piece is smaller, since a reader may need no more."""
PIECE_BYTES: Final = 1 << 20
"""The bytes of event data after which a piece ends."""

_RANGE: Final = f"SELECT {COLUMNS} FROM events WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?"
_LANDMARKS: Final = (
    f"SELECT {COLUMNS} FROM events INDEXED BY landmarks WHERE landmark = 1 AND id >= ? AND id <= ? ORDER BY id LIMIT ?"
)

Found = tuple[EventRow, StoredEvent]


class Reader:
    """Reads the logs of a database as they are when reading begins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def events(self, root_id: str, after: int) -> Iterator[StoredEvent]:
        """The events numbered above ``after``; raises `CorruptRecordError` where one is missing."""
        parts = self._parts(root_id, after)
        expected = after + 1
        for _, event in self._rows(_RANGE, root_id, parts):
            if event.seq != expected:
                break
            yield event
            expected += 1
        if parts and expected <= parts[-1].last:
            self._missing(root_id, f"event {expected}")

    def landmarks(self, root_id: str, after: int) -> Iterator[StoredEvent]:
        """The landmarks among them. Each holds the number of the previous one, which shows that none is missing."""
        parts = self._parts(root_id, after)
        if not parts:
            return
        latest = -1 if after < 0 else latest_of(self._row(root_id, parts[0], after + 1)[0])[0].landmark
        for row, event in self._rows(_LANDMARKS, root_id, parts, PIECE):
            if row[BEFORE] != latest:
                break
            latest = event.seq
            yield event
        if latest_of(self._row(root_id, parts[-1], parts[-1].last)[0])[1].landmark != latest:
            self._missing(root_id, f"a landmark after event {latest}")

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        """The marks, last first: each event holds the number of the mark before it."""
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            seq = latest_in(connection, log, log.last).mark
        while seq >= 0:
            with self._database.reading() as connection:
                log = _logs.find(connection, root_id)  # raises if the log was dropped while it was read
                assert connection is not None
                row, event = load(connection, _logs.owner(connection, log, seq).id, seq)
            yield event
            seq = latest_of(row)[0].mark

    def event(self, root_id: str, seq: int) -> StoredEvent:
        """One event; raises `RunNotFoundError` if the log has no such number."""
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            if not 0 <= seq <= log.last:
                raise RunNotFoundError(f"run {root_id} has no event {seq}")
            return load(connection, _logs.owner(connection, log, seq).id, seq)[1]

    def _parts(self, root_id: str, after: int) -> list[Part]:
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            found = [part for _, part in _logs.parts(connection, log, after)]
        found = [part._replace(first=max(part.first, after + 1)) for part in found]
        return [part for part in found if part.first <= part.last]

    def _rows(self, query: str, root_id: str, parts: list[Part], count: int = FIRST_PIECE) -> Iterator[Found]:
        """The rows of these parts, in order, in pieces; ``count``: of the first one."""
        left = parts[::-1]
        while left:
            found: list[Found] = []
            with self._database.reading() as connection:
                if connection is None:
                    self._missing(root_id, "all")
                while left and len(found) < count:
                    part = left.pop()
                    rows, is_full = _piece(connection, query, part, count - len(found))
                    found += [(row, decoded(row)) for row in rows]
                    if is_full:
                        left.append(part._replace(first=found[-1][1].seq + 1))
                        break
            yield from found
            count = PIECE

    def _row(self, root_id: str, part: Part, seq: int) -> Found:
        found = next(self._rows(_RANGE, root_id, [Part(part.log, seq, seq)]), None)
        if found is None:
            self._missing(root_id, f"event {seq}")
        return found

    def _missing(self, root_id: str, what: str) -> NoReturn:
        with self._database.reading() as connection:
            _logs.find(connection, root_id)  # raises if the log was dropped while it was read
            raise corrupt(f"of run {root_id}, {what} is missing")


def latest_in(connection: sqlite3.Connection, log: LogRow, seq: int) -> Latest:
    """The numbers of the last landmark and mark in a log up to an event of it; ``seq`` is -1 if it has none."""
    if seq < 0:
        return Latest()
    return latest_of(load(connection, _logs.owner(connection, log, seq).id, seq)[0])[1]


def _piece(connection: sqlite3.Connection, query: str, part: Part, count: int) -> tuple[list[EventRow], bool]:
    """Rows of a part, and whether there may be more, because they are as many or as large as a piece may be."""
    rows, size, base = [], 0, part.log << SEQ_BITS
    cursor = connection.execute(query, (base | part.first, base | part.last, count))
    for row in cursor:
        rows.append(row)
        size += len(row[12]) if isinstance(row[12], bytes) else 0
        if size > PIECE_BYTES:
            break
    cursor.close()
    return rows, len(rows) == count or size > PIECE_BYTES
