"""The table ``events``: rows of segments, written and read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from crewbus.exceptions import CorruptRecordError, RecordingError
from crewbus.stores import LANDMARKS, MARKS, Segment, StoredEvent, fold
from crewbus_postgres._columns import Columns
from crewbus_postgres._session import Row, Session

COLUMNS: Final = Columns(
    log="bigint",
    seq="bigint",
    epoch="bigint",
    run_id="bytea",
    parent="bytea",
    at="float8",
    source="bytea",
    attempt="bigint",
    name="bytea",
    version="bigint",
    kind="smallint",
    data="bytea",
    count="bigint",
    sum="bytea",
)
NAMES: Final = COLUMNS.names
LEAST, GREATEST = -(1 << 63), (1 << 63) - 1


def digest(*texts: str) -> bytes:
    """What a text, or several, are looked up by."""
    text = texts[0] if len(texts) == 1 else repr(texts)
    return blake2b(text.encode(), digest_size=16).digest()


def checked(event: StoredEvent) -> StoredEvent:
    """``event`` in plain types; raises `RecordingError` if it can't be stored."""
    run_id, seq, parent, at, source, attempt, name, version, data = event
    try:
        for text in (run_id, parent, source, name):
            if text is not None:
                text.encode()
        if not (LEAST <= attempt <= GREATEST and LEAST <= version <= GREATEST and seq <= GREATEST):
            raise ValueError("a number is beyond 64 bits")
        return StoredEvent(run_id, int(seq), parent, float(at), source, int(attempt), name, int(version), bytes(data))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise RecordingError(f"event {seq} of run {run_id!r} can't be stored: {error}") from error


def encoded(log: int, epoch: int, events: Iterable[StoredEvent]) -> list[Row]:
    """The rows of events that follow each other in a log."""
    return [_row(log, epoch, segment) for segment in fold(events)]


def _row(log: int, epoch: int, segment: Segment) -> Row:
    run_id, seq, parent, at, source, attempt, name, version, _ = segment.first
    kind = 2 if name in MARKS else 1 if name in LANDMARKS else 0
    texts = (run_id.encode(), None if parent is None else parent.encode())
    source_ = None if source is None else source.encode()
    head = (log, seq, epoch, *texts, at, source_, attempt, name.encode(), version, kind)
    return (*head, segment.data, segment.length, _sum(head, segment.data, segment.length))


def insert(session: Session, rows: Sequence[Row]) -> None:
    """Write rows."""
    if rows:
        source, values = COLUMNS.source(rows, "e")
        session.rows(f"INSERT INTO $s.events ({NAMES}) SELECT * FROM {source}", *values)


def decoded(row: Row) -> list[StoredEvent]:
    """The events of a row; raises `CorruptRecordError` if it has changed."""
    *head, data, count, found = row
    log, seq, _, run_id, parent, at, source, attempt, name, version, _ = head
    if found == _sum(tuple(head), data, count):
        packed = StoredEvent(
            run_id.decode(),
            seq,
            None if parent is None else parent.decode(),
            at,
            None if source is None else source.decode(),
            attempt,
            name.decode(),
            version,
            data,
        )
        return Segment.load(packed, count).events()
    raise CorruptRecordError(f"event {seq} of log {log} is not as it was written")


def _sum(head: Row, data: bytes, count: int) -> bytes:
    return blake2b(repr((*head, count)).encode() + data, digest_size=8).digest()


def load_firsts(session: Session, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], StoredEvent]:
    """Events by log and number, each the first of its row; raises `CorruptRecordError` if one is missing."""
    query = f"SELECT {NAMES} FROM $s.events JOIN unnest(%b::bigint[], %b::bigint[]) AS k(log, seq) USING (log, seq)"
    rows = session.rows(query, [log for log, _ in keys], [seq for _, seq in keys])
    found = {(row[0], row[1]): decoded(row)[0] for row in rows}
    for log, seq in keys:
        if (log, seq) not in found:
            raise CorruptRecordError(f"event {seq} of log {log} is missing")
    return found
