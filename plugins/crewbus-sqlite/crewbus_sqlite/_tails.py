"""The table ``tails``: by what many logs grew in one commit, in one row.

Events that go into the last row of their log would have that row and the log's written anew at each commit: with a
thousand runs that stream, a page of the file for a few words of each. So they are kept here, and those rows are written
once for many commits.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Final, NamedTuple

from crewbus.exceptions import CorruptRecordError
from crewbus_sqlite import _meta
from crewbus_sqlite._checksums import SIZE, corrupt
from crewbus_sqlite._placeholders import marks, pieces

MOST: Final = 16
"""How many tails there may be before their logs are written: readers look through all of them."""
_HEAD: Final = struct.Struct("<QIIId")
_pack: Final = _HEAD.pack


class Tail(NamedTuple):
    """By what one log grew in one commit: `crewbus.stores.Segment.extend` takes it."""

    log: int
    first: int
    """The number of the first event."""
    length: int
    """How many events."""
    at: float
    """When the last event happened."""
    data: bytes

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self.first + self.length - 1


def insert(connection: sqlite3.Connection, tails: Sequence[Tail]) -> None:
    """Write what one commit adds to logs."""
    heads = b"".join([_pack(log, first, length, len(data), at) for log, first, length, at, data in tails])
    data = b"".join([tail.data for tail in tails])
    connection.execute("INSERT INTO tails (heads, data, sum) VALUES (?, ?, ?)", (heads, data, _sum_of(heads, data)))
    meta = _meta.load(connection)
    _meta.save(connection, meta._replace(tails=meta.tails + 1))


def after(connection: sqlite3.Connection, ends: Mapping[int, int]) -> dict[int, list[Tail]]:
    """What follows the last events in the rows of logs, by log and in order; ``ends``: the numbers of these events.

    Raises `CorruptRecordError`.
    """
    found: dict[int, list[Tail]] = {}
    for tail in _load(connection, ends):
        if tail.log in ends and tail.last > ends[tail.log]:
            found.setdefault(tail.log, []).append(tail)
    for log, tails in found.items():
        tails.sort(key=lambda tail: tail.first)
        last = ends[log]
        for tail in tails:
            if tail.first != last + 1:
                raise corrupt(f"event {last + 1} of log {log} is missing")
            last = tail.last
    return found


def logs(connection: sqlite3.Connection) -> set[int]:
    """The logs that have tails, or had; raises `CorruptRecordError`."""
    return {tail.log for tail in _load(connection)}


def sweep(connection: sqlite3.Connection) -> None:
    """Delete the rows of which nothing is needed any more. A damaged one stays: whoever reads it is told."""
    with suppress(CorruptRecordError):
        meta = _meta.load(connection)
        if meta.tails:
            rows = connection.execute("SELECT id, heads, data, sum FROM tails").fetchall()
            done = [key for key, *columns in rows if _is_done(connection, *columns)]
            for key in done:
                connection.execute("DELETE FROM tails WHERE id = ?", (key,))
            _meta.save(connection, meta._replace(tails=meta.tails - len(done)))


def _is_done(connection: sqlite3.Connection, heads: bytes, data: bytes, found: object) -> bool:
    try:
        tails = [*_unpacked(heads, data, found)]
    except CorruptRecordError:
        return False
    ends = _ends(connection, [*{tail.log for tail in tails}])
    return all(tail.last <= ends.get(tail.log, tail.last) for tail in tails)


def _ends(connection: sqlite3.Connection, logs: list[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for piece in pieces(logs):
        found.update(connection.execute(f"SELECT id, last FROM logs WHERE id IN {marks([piece], len(piece))}", piece))
    return found


def _load(connection: sqlite3.Connection, logs: Collection[int] = ()) -> Iterator[Tail]:
    """All tails; or if only one log is asked for, those of the rows that may have some of that."""
    expected = _meta.load(connection).tails
    if not expected:
        return
    rows = connection.execute("SELECT heads, data, sum FROM tails").fetchall()
    if len(rows) != expected:
        raise corrupt(f"the table tails should have {expected} rows, and has {len(rows)}")
    key = b"".join(log.to_bytes(8, "little") for log in logs) if len(logs) == 1 else b""
    for heads, data, found in rows:
        yield from _unpacked(heads, data, found, key)


def _unpacked(heads: bytes, data: bytes, found: object, key: bytes = b"") -> Iterator[Tail]:
    """What a row has, unless ``key`` is not in its heads; raises `CorruptRecordError` if it is damaged."""
    if type(heads) is not bytes or type(data) is not bytes or _sum_of(heads, data) != found:
        raise corrupt("a row of the table tails is not as it was written")
    at = 0
    for log, first, length, size, when in _HEAD.iter_unpack(heads) if key in heads else ():
        yield Tail(log, first, length, when, data[at : at + size])
        at += size


def _sum_of(heads: bytes, data: bytes) -> bytes:
    return blake2b(heads + data, digest_size=SIZE, salt=len(heads).to_bytes(8, "big"), person=b"tails").digest()
