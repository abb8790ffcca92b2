"""Reads the events of logs, in pieces, and the summaries of logs, in pages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

from crewbus.exceptions import CorruptRecordError, RunNotFoundError
from crewbus.stores import LogFilter, LogInfo, LogSummary, StoredEvent
from crewbus_postgres import _logs
from crewbus_postgres._database import Database
from crewbus_postgres._events import NAMES, decoded, load_firsts
from crewbus_postgres._holders import ALIVE
from crewbus_postgres._logs import LogRow, Part
from crewbus_postgres._session import Row, Session

PIECE: Final = 256
"""The most rows that are read at once."""
_EVENTS: Final = (
    f"SELECT {NAMES} FROM $s.events WHERE log = %s AND seq <= %s AND seq >= coalesce("
    "(SELECT max(seq) FROM $s.events WHERE log = %s AND seq <= %s), %s) ORDER BY seq LIMIT %s"
)
_LANDMARKS: Final = (
    f"SELECT {NAMES} FROM $s.events WHERE log = %s AND kind > 0 AND seq >= %s AND seq <= %s ORDER BY seq LIMIT %s"
)
_MARKS: Final = (
    f"SELECT {NAMES} FROM $s.events WHERE log = %s AND kind = 2 AND seq >= %s AND seq <= %s ORDER BY seq DESC LIMIT %s"
)
_INFO: Final = (
    f"{_logs.SELECT.removesuffix(' FROM $s.logs l')}, h.name, extract(epoch FROM h.until)::float8, "
    f"coalesce({ALIVE}, false), p.root_id FROM $s.logs l "
    "LEFT JOIN $s.holders h ON h.token = l.holder LEFT JOIN $s.logs p ON p.id = l.parent"
)


class Reader:
    """Reads the logs of a database as they are when reading begins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def events(self, root_id: str, after: int) -> Iterator[StoredEvent]:
        """The events numbered above ``after``; raises `CorruptRecordError` where one is missing."""
        parts, expected = self._parts(root_id, after), after + 1
        for part in parts:
            while expected <= part.last:
                rows = self._rows(root_id, _EVENTS, part.log, part.last, part.log, expected, expected, PIECE)
                events = [event for row in rows for event in decoded(row) if expected <= event.seq <= part.last]
                if not events:
                    self._missing(root_id, f"event {expected}")
                for event in events:
                    if event.seq != expected:
                        self._missing(root_id, f"event {expected}")
                    yield event
                    expected += 1

    def landmarks(self, root_id: str, after: int) -> Iterator[StoredEvent]:
        """The landmarks among them."""
        for part in self._parts(root_id, after):
            first = part.first
            while rows := self._rows(root_id, _LANDMARKS, part.log, first, part.last, PIECE):
                yield from (decoded(row)[0] for row in rows)
                first = rows[-1][1] + 1
                if len(rows) < PIECE:
                    break

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        """The marks, last first."""
        for part in reversed(self._parts(root_id, -1)):
            last, size = part.last, 4
            while rows := self._rows(root_id, _MARKS, part.log, part.first, last, size):
                yield from (decoded(row)[0] for row in rows)
                last = rows[-1][1] - 1
                if len(rows) < size:
                    break
                size = PIECE

    def event(self, root_id: str, seq: int) -> StoredEvent:
        """One event; raises `RunNotFoundError` if the log has no such number."""
        with self._database.reading() as session:
            log = _logs.find(session, root_id)
            assert session is not None
            if not 0 <= seq <= log.last:
                raise RunNotFoundError(f"run {root_id} has no event {seq}")
            owner = log.id if seq > log.parent_at else _owner(_logs.parts(session, log), seq)
            return event_of(session, owner, seq)

    def _parts(self, root_id: str, after: int) -> list[Part]:
        with self._database.reading() as session:
            log = _logs.find(session, root_id)
            assert session is not None
            parts = [Part(log.id, root_id, 0, log.last)] if log.parent is None else _logs.parts(session, log)
        found = [part._replace(first=max(part.first, after + 1)) for part in parts]
        return [part for part in found if part.first <= part.last]

    def _rows(self, root_id: str, query: str, *values: object) -> list[Row]:
        with self._database.reading() as session:
            if session is None:
                self._missing(root_id, "all")
            return session.rows(query, *values)

    def _missing(self, root_id: str, what: str) -> NoReturn:
        with self._database.reading() as session:
            _logs.find(session, root_id)  # raises if the log was dropped while it was read
        raise CorruptRecordError(f"of run {root_id}, {what} is missing")


def event_of(session: Session, log: int, seq: int) -> StoredEvent:
    """One event of the log of that id; raises `CorruptRecordError` if it is missing."""
    for row in session.rows(_EVENTS, log, seq, log, seq, seq, 1):
        for event in decoded(row):
            if event.seq == seq:
                return event
    raise CorruptRecordError(f"event {seq} of log {log} is missing")


def _owner(parts: Sequence[Part], seq: int) -> int:
    return next(part.log for part in parts if part.first <= seq <= part.last)


def origin_of(session: Session, log: LogRow, at: int) -> int:
    """The id of the log that the event of this number, which a log has, was written to."""
    return _owner(_logs.parts(session, log), at)


# Listing


def infos(session: Session, where: str, *values: object) -> list[tuple[LogRow, LogInfo]]:
    """The logs that match a condition, with their states."""
    found = []
    for row in session.rows(f"{_INFO} {where}", *values):
        log, (holder, until, alive, parent) = LogRow.load(row), row[len(LogRow._fields) :]
        shared = None if parent is None else log.parent_at
        parent = None if parent is None else parent.decode()
        held = holder, until, alive
        info = LogInfo(log.root_id, log.epoch, log.last, log.sealed, *held, parent, shared, log.stalls, log.due)
        found.append((log, info))
    return found


def info(session: Session | None, root_id: str) -> tuple[LogRow, LogInfo]:
    """The log of a root run, with its state; raises `RunNotFoundError`."""
    found = [] if session is None else infos(session, f"WHERE {_logs.BY_ROOT}", *_logs.key_of(root_id))
    if not found:
        raise RunNotFoundError(f"run {root_id} is not recorded in this store")
    return found[0]


def summaries(session: Session, logs: Sequence[tuple[LogRow, LogInfo]]) -> list[LogSummary]:
    """The summaries of logs that have events."""
    ends = [(log.id, log.ended) for log, _ in logs if log.ended >= 0]
    events = load_firsts(session, [*{(log.origin, 0) for log, _ in logs}, *ends])
    return [
        LogSummary(
            info,
            events[log.origin, 0],
            math.nan if log.begun is None else log.begun,
            math.nan if log.at is None else log.at,
            events[log.id, log.ended] if log.ended >= 0 else None,
        )
        for log, info in logs
    ]


def find(database: Database, query: LogFilter) -> Iterator[LogSummary]:
    """The logs that match, the newest first. Between pages no transaction is open."""
    left = math.inf if query.limit is None else query.limit
    where, values = _conditions(query)
    below, size = (1 << 63) - 1, int(min(PIECE, max(16, left)))
    while left > 0:
        with database.reading() as session:
            if session is None:
                return
            logs = infos(
                session, f"WHERE l.last >= 0 AND l.id < %s{where} ORDER BY l.id DESC LIMIT %s", below, *values, size
            )
            found = summaries(session, logs)
        for summary in filter(query.matches, found):
            if left > 0:
                yield summary
                left -= 1
        if len(logs) < size:
            return
        below = logs[-1][0].id


def _conditions(query: LogFilter) -> tuple[str, list[object]]:
    """What reduces the logs to look at; `LogFilter.matches` decides."""
    where, values = "", list[object]()
    labels = [_logs.tag_label(*tag) for tag in query.tags.items() if all(map(_logs.is_text, tag))]
    if query.name is not None and _logs.is_text(query.name):
        labels.append(_logs.name_label(query.name))
    for label in labels:
        where += " AND EXISTS (SELECT 1 FROM $s.labels n WHERE n.label = %s AND n.log = l.id)"
        values.append(label)
    if query.since is not None:
        where += " AND l.begun >= %s"
        values.append(query.since)
    if query.states is not None and not query.states & {"finished", "failed", "cancelled"}:
        where += " AND (NOT l.sealed OR l.ended < 0 OR l.outcome = 'crewbus.RunSuspended')"
    return where, values


def tags_of(data: bytes) -> dict[str, str]:
    """The tags that a log keeps."""
    return dict(json.loads(data))
