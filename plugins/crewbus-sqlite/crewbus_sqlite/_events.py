"""Rows of the table ``events``."""

from __future__ import annotations

import math
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain, islice, product
from typing import Any, Final, NamedTuple

from crewbus.exceptions import RecordingError
from crewbus.stores import LANDMARKS, MARKS, Segment, StoredEvent, fold
from crewbus_sqlite import _tails
from crewbus_sqlite._checksums import SIZE, corrupt
from crewbus_sqlite._placeholders import SIZES, marks, pieces
from crewbus_sqlite._schema import SEQ_BITS

COLUMNS: Final = (
    "id, epoch, run_id, parent, at, source, attempt, name, version, landmark, before, marked, data, sum, count"
)
LANDMARK, BEFORE, MARKED = 9, 10, 11
"""Positions in a row: whether it is a landmark, and the numbers of the landmark and of the mark before it."""
SEQ_MASK: Final = (1 << SEQ_BITS) - 1
LEAST, GREATEST = -(1 << 63), (1 << 63) - 1
_PLAIN: Final = frozenset(
    (str, int, parent, float, source, int, str, int, bytes) for parent, source in product((str, type(None)), repeat=2)
)
"""The types of the fields of nearly all events, which need no conversion."""
_packed: Final = struct.Struct("<qqdqqqqqqqqq").pack

EventRow = tuple[Any, ...]


class Latest(NamedTuple):
    """The numbers of the last landmark and of the last mark; -1 for none."""

    landmark: int = -1
    mark: int = -1

    def after(self, event: StoredEvent) -> Latest:
        """The numbers after one more event."""
        if event.name not in LANDMARKS:
            return self
        return Latest(event.seq, event.seq if event.name in MARKS else self.mark)


NONE: Final = Latest()


def checked(event: StoredEvent) -> StoredEvent:
    """``event`` in plain types; raises `RecordingError` if SQLite can't store it.

    An event that failed in the writer would be tried again for ever.
    """
    run_id, seq, parent, at, source, attempt, name, version, data = event
    if (
        tuple(map(type, event)) in _PLAIN
        and seq <= SEQ_MASK
        and at > 0.0
        and LEAST <= attempt <= GREATEST
        and LEAST <= version <= GREATEST
        and all(map(str.isascii, (run_id, name, parent or "", source or "")))
    ):
        return event
    try:
        plain = StoredEvent(
            _text(run_id),
            seq,
            None if parent is None else _text(parent),
            _time(at),
            None if source is None else _text(source),
            _integer(attempt),
            _text(name),
            _integer(version),
            bytes(data),
        )
        if seq > SEQ_MASK:
            raise ValueError("its number is beyond 32 bits")
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise RecordingError(f"event {seq} of run {run_id!r} can't be stored: {error}") from error
    return plain


def is_like(event: StoredEvent, known: StoredEvent) -> bool:
    """Whether an event needs no check, since all that may be wrong with it is the very same in one that was checked."""
    run_id, seq, parent, at, source, attempt, name, version, data = event
    return (
        run_id is known.run_id
        and parent is known.parent
        and name is known.name
        and source is known.source
        and attempt is known.attempt
        and version is known.version
        and type(at) is float
        and at > 0.0
        and type(data) is bytes
        and type(seq) is int
        and seq <= SEQ_MASK
    )


def _text(text: str) -> str:
    if not text.isascii():
        text.encode()  # raises for a lone surrogate
    return text if type(text) is str else str.__str__(text)


def _time(at: float) -> float:
    return math.nan if math.isnan(at) else float(at) + 0.0  # SQLite has no negative zero, and stores NaN as NULL


def _integer(number: int) -> int:
    if not LEAST <= number <= GREATEST:
        raise ValueError(f"{number} is beyond 64 bits")
    return int(number)


def encoded(log: int, epoch: int, segments: Iterable[Segment], before: Latest) -> list[EventRow]:
    """The rows of segments of a log; ``before`` are the numbers before the first event."""
    base, rows = log << SEQ_BITS, list[EventRow]()
    for segment in segments:
        run_id, seq, parent, at, source, attempt, name, version, _ = first = segment.first
        data, count = segment.data, segment.length
        landmark = 1 if name in LANDMARKS else 0
        row = base | seq, epoch, run_id, parent, at, source, attempt, name, version, landmark, *before, data
        rows.append((*row, _sum_of(*row, count), count))
        if landmark:
            before = before.after(first)
    return rows


def insert(connection: sqlite3.Connection, rows: Iterable[EventRow], *, replacing: bool = False) -> None:
    """Write rows; ``replacing``: in place of those with the same first events, to which others were added."""
    verb, left = "REPLACE" if replacing else "INSERT", iter(rows)
    while some := list(islice(left, SIZES[0])):
        for piece in pieces(some):
            connection.execute(f"{verb} INTO events ({COLUMNS}) VALUES {marks(piece, 15)}", list(chain(*piece)))


def insert_all(connection: sqlite3.Connection, log: int, events: Iterable[StoredEvent], before: Latest) -> None:
    """Write the first events of a log that nobody has taken."""
    insert(connection, encoded(log, 0, fold(events), before))


def load(connection: sqlite3.Connection, log: int, seq: int) -> tuple[EventRow, StoredEvent]:
    """One event, which is in the log of that id, and its row; raises `CorruptRecordError` if it is not."""
    row, segment = last_segment(connection, log, seq)
    return row, segment.events()[seq - segment.first.seq]


def last_segment(connection: sqlite3.Connection, log: int, seq: int) -> tuple[EventRow, Segment]:
    """The segment with an event, as long as it is with its tails, and its row."""
    base = log << SEQ_BITS
    query = f"SELECT {COLUMNS} FROM events WHERE id >= ? AND id <= ? ORDER BY id DESC LIMIT 1"
    for row in connection.execute(query, (base, base | seq)).fetchall():
        segment = segment_of(row)
        if segment.last < seq:
            for tail in _tails.after(connection, {log: segment.last}).get(log, ()):
                try:
                    segment.extend(tail.length, tail.data)
                except ValueError:
                    raise corrupt(f"event {tail.first} of log {log} is not as it was written") from None
        if segment.last >= seq:
            return row, segment
    raise corrupt(f"event {seq} of log {log} is missing")


def load_all(connection: sqlite3.Connection, keys: Sequence[int]) -> dict[int, StoredEvent]:
    """The events with these ids, each the first of its row; raises `CorruptRecordError` if one is missing."""
    found: dict[int, StoredEvent] = {}
    for piece in pieces(keys):
        query = f"SELECT {COLUMNS} FROM events WHERE id IN {marks([piece], len(piece))}"
        found.update((row[0], decoded(row)[0]) for row in connection.execute(query, piece))
    for key in set(keys) - found.keys():
        raise corrupt(f"event {key & SEQ_MASK} of log {key >> SEQ_BITS} is missing")
    return found


def decoded(row: EventRow) -> list[StoredEvent]:
    """The events of a row; raises `CorruptRecordError` if the row has changed."""
    return segment_of(row).events()


def segment_of(row: EventRow) -> Segment:
    """The segment in a row; raises `CorruptRecordError` if the row has changed."""
    key, epoch, run_id, parent, at, source, attempt, name, version, landmark, before, marked, data, found, count = row
    at = math.nan if at is None else at
    try:
        right = found == _sum_of(
            key, epoch, run_id, parent, at, source, attempt, name, version, landmark, before, marked, data, count
        )
        if right:
            return Segment.load(
                StoredEvent(run_id, key & SEQ_MASK, parent, at, source, attempt, name, version, data), count
            )
    except (TypeError, AttributeError, ValueError, OverflowError, struct.error):  # a column is of another type
        pass
    raise corrupt(f"event {key & SEQ_MASK} of log {key >> SEQ_BITS} is not as it was written")


def latest_of(row: EventRow) -> tuple[Latest, Latest]:
    """The latest numbers before a row's event, and including it."""
    before = Latest(row[BEFORE], row[MARKED])
    if not row[LANDMARK]:
        return before, before
    seq = row[0] & SEQ_MASK
    return before, Latest(seq, seq if row[7] in MARKS else before.mark)


def _sum_of(
    key: int,
    epoch: int,
    run_id: str,
    parent: str | None,
    at: float,
    source: str | None,
    attempt: int,
    name: str,
    version: int,
    landmark: int,
    before: int,
    marked: int,
    data: bytes,
    count: int,
) -> bytes:
    head = _packed(
        key, epoch, at, attempt, version, landmark, before, marked, len(run_id), len(name),
        -1 if parent is None else len(parent), -1 if source is None else len(source),
    )  # fmt: skip
    texts = "".join((run_id, name, parent or "", source or "")).encode()
    if count == 1:  # as before there were segments
        return blake2b(head + texts + data, digest_size=SIZE).digest()
    return blake2b(head + texts + data, digest_size=SIZE, salt=count.to_bytes(8)).digest()
