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
from crewbus_sqlite._events import BEFORE, COLUMNS, EventRow, Latest, decoded, latest_of
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
        for part in self._parts(root_id, after):
            expected = part.first
            for _, event in self._rows(_RANGE, root_id, part):
                if event.seq != expected:
                    break
                yield event
                expected += 1
            if expected <= part.last:
                self._missing(root_id, f"event {expected}")

    def landmarks(self, root_id: str, after: int) -> Iterator[StoredEvent]:
        """The landmarks among them. Each holds the number of the previous one, which shows that none is missing."""
        for part in self._parts(root_id, after):
            latest = latest_of(self._row(root_id, part, part.first)[0])[0].landmark
            for row, event in self._rows(_LANDMARKS, root_id, part):
                if row[BEFORE] != latest:
                    break
                latest = event.seq
                yield event
            if latest_of(self._row(root_id, part, part.last)[0])[1].landmark != latest:
                self._missing(root_id, f"a landmark after event {latest}")

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        """The marks, last first: each event holds the number of the mark before it."""
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            parts, seq = _logs.parts(connection, log), latest_in(connection, log).mark
        while seq >= 0:
            part = next(part for part in reversed(parts) if part.first <= seq)
            row, event = self._row(root_id, part, seq)
            yield event
            seq = latest_of(row)[0].mark

    def event(self, root_id: str, seq: int) -> StoredEvent:
        """One event; raises `RunNotFoundError` if the log has no such number."""
        for part in self._parts(root_id, seq - 1):
            if part.first == seq:
                return self._row(root_id, part, seq)[1]
            break
        raise RunNotFoundError(f"run {root_id} has no event {seq}")

    def _parts(self, root_id: str, after: int) -> list[Part]:
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            found = _logs.parts(connection, log)
        return [part._replace(first=max(part.first, after + 1)) for part in found if part.last > after]

    def _rows(self, query: str, root_id: str, part: Part) -> Iterator[Found]:
        base, count, first = part.log << SEQ_BITS, FIRST_PIECE, part.first
        while first <= part.last:
            with self._database.reading() as connection:
                if connection is None:
                    self._missing(root_id, "all")
                rows = _piece(connection, query, (base | first, base | part.last, count))
                found = [(row, decoded(row)) for row in rows]
            yield from found
            if not found:
                return
            first, count = found[-1][1].seq + 1, PIECE

    def _row(self, root_id: str, part: Part, seq: int) -> Found:
        found = next(self._rows(_RANGE, root_id, Part(part.log, seq, seq)), None)
        if found is None:
            self._missing(root_id, f"event {seq}")
        return found

    def _missing(self, root_id: str, what: str) -> NoReturn:
        with self._database.reading() as connection:
            _logs.find(connection, root_id)  # raises if the log was dropped while it was read
            raise corrupt(f"of run {root_id}, {what} is missing")


def latest_in(connection: sqlite3.Connection, log: LogRow) -> Latest:
    """The numbers of the last landmark and mark in a log."""
    for part in _logs.parts(connection, log)[-1:]:
        key = part.log << SEQ_BITS | part.last
        for row in _piece(connection, _RANGE, (key, key, 1)):
            decoded(row)
            return latest_of(row)[1]
        raise corrupt(f"of run {log.root_id}, event {part.last} is missing")
    return Latest()


def _piece(connection: sqlite3.Connection, query: str, values: tuple[int, int, int]) -> list[EventRow]:
    rows, size = [], 0
    cursor = connection.execute(query, values)
    for row in cursor:
        rows.append(row)
        size += len(row[12]) if isinstance(row[12], bytes) else 0
        if size > PIECE_BYTES:
            break
    cursor.close()
    return rows
