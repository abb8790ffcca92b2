"""Reads the events of a log in pieces: between pieces no transaction is open, and no other thread waits."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain
from typing import Final, NoReturn

from crewbus.exceptions import RunNotFoundError
from crewbus.stores import StoredEvent
from crewbus_sqlite import _logs
from crewbus_sqlite._checksums import corrupt
from crewbus_sqlite._database import Database
from crewbus_sqlite._events import BEFORE, COLUMNS, EventRow, Latest, decoded, last_segment, latest_of, load
from crewbus_sqlite._logs import LogRow, Part
from crewbus_sqlite._schema import SEQ_BITS

FIRST_PIECE: Final = 16
PIECE: Final = 256
"""The most events that are read at once. The first piece is smaller, since a reader may need no more."""
PIECE_BYTES: Final = 1 << 20
"""The bytes of event data after which a piece ends."""

_RANGE: Final = (
    f"SELECT {COLUMNS} FROM events WHERE id <= :last AND id >= coalesce("
    "(SELECT max(id) FROM events WHERE id >= :log AND id <= :first), :first) ORDER BY id LIMIT :count"
)
"""From the row that has the first event, and may begin with earlier ones."""
_LANDMARKS: Final = (
    f"SELECT {COLUMNS} FROM events INDEXED BY landmarks WHERE landmark = 1 AND id >= :first AND id <= :last "
    "ORDER BY id LIMIT :count"
)

Found = tuple[EventRow, StoredEvent]


class Reader:
    """Reads the logs of a database as they are when reading begins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def events(self, root_id: str, after: int) -> Iterator[StoredEvent]:
        """The events numbered above ``after``; raises `CorruptRecordError` where one is missing."""
        with self._database.reading() as connection:
            parts = _parts(connection, root_id, after)
        expected = after + 1
        for _, event in self._rows(_RANGE, root_id, parts[::-1], FIRST_PIECE):
            if event.seq != expected:
                break
            yield event
            expected += 1
        if parts and expected <= parts[-1].last:
            self._missing(root_id, f"event {expected}")

    def landmarks(self, root_id: str, after: int) -> Iterator[StoredEvent]:
        """The landmarks among them. Each holds the number of the previous one, which shows that none is missing."""
        with self._database.reading() as connection:  # once: nearly all runs have no more landmarks than a piece
            parts = _parts(connection, root_id, after)
            if not parts:
                return
            assert connection is not None
            first, last = parts[0], parts[-1]
            latest = -1 if after < 0 else latest_of(load(connection, first.log, after + 1)[0])[0].landmark
            end = latest_of(load(connection, last.log, last.last)[0])[1].landmark
            left = parts[::-1]
            found = _take(connection, _LANDMARKS, left, PIECE)
        for row, event in chain(found, self._rows(_LANDMARKS, root_id, left)):
            if row[BEFORE] != latest:
                break
            latest = event.seq
            yield event
        if latest != end:
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
            log = _logs.current(connection, root_id)
            assert connection is not None
            if not 0 <= seq <= log.last:
                raise RunNotFoundError(f"run {root_id} has no event {seq}")
            return load(connection, _logs.owner(connection, log, seq).id, seq)[1]

    def _rows(self, query: str, root_id: str, left: list[Part], count: int = PIECE) -> Iterator[Found]:
        """The rows of the parts that are left, the last first, in pieces; ``count``: of the first one."""
        while left:
            with self._database.reading() as connection:
                if connection is None:
                    self._missing(root_id, "all")
                found = _take(connection, query, left, count)
            yield from found
            count = PIECE

    def _missing(self, root_id: str, what: str) -> NoReturn:
        with self._database.reading() as connection:
            _logs.find(connection, root_id)  # raises if the log was dropped while it was read
            raise corrupt(f"of run {root_id}, {what} is missing")


def latest_in(connection: sqlite3.Connection, log: LogRow, seq: int) -> Latest:
    """The numbers of the last landmark and mark in a log up to an event of it; ``seq`` is -1 if it has none."""
    if seq < 0:
        return Latest()
    return latest_of(load(connection, _logs.owner(connection, log, seq).id, seq)[0])[1]


def _parts(connection: sqlite3.Connection | None, root_id: str, after: int) -> list[Part]:
    """Where the events of a log above ``after`` are stored."""
    log = _logs.current(connection, root_id)
    assert connection is not None
    found = [part._replace(first=max(part.first, after + 1)) for _, part in _logs.parts(connection, log, after)]
    return [part for part in found if part.first <= part.last]


def _take(connection: sqlite3.Connection, query: str, left: list[Part], count: int) -> list[Found]:
    """Events of the parts that are left, the last first, as many as a piece has; what remains of these is left."""
    found: list[Found] = []
    while left and len(found) < count:
        part = left.pop()
        events, is_full = _piece(connection, query, part, count - len(found))
        found += events
        if is_full and events:
            left.append(part._replace(first=events[-1][1].seq + 1))
            break
    return found


def _piece(connection: sqlite3.Connection, query: str, part: Part, count: int) -> tuple[list[Found], bool]:
    """Events of a part, and whether there may be more, because they are as many or as large as a piece may be."""
    found, size, base = list[Found](), 0, part.log << SEQ_BITS
    limits = {"log": base, "first": base | part.first, "last": base | part.last, "count": count}
    cursor = connection.execute(query, limits)
    last, row = part.last, None
    for row in cursor:
        events = decoded(row)
        found += [(row, event) for event in events if part.first <= event.seq <= part.last]
        last = events[-1].seq
        size += len(row[12])
        if size > PIECE_BYTES or len(found) >= count:
            break
    else:
        if row is not None and query is _RANGE and last < part.last:  # what follows is in tails
            segment = last_segment(connection, part.log, part.last)[1]
            found += [(row, event) for event in segment.events() if max(last + 1, part.first) <= event.seq <= part.last]
    cursor.close()
    return found, len(found) >= count or size > PIECE_BYTES
