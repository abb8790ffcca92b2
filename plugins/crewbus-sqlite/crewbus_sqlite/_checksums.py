"""Digests of rows: SQLite has none, and would return a flipped bit in the file as data."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

from crewbus.exceptions import CorruptRecordError

SIZE: Final = 8


def sum_of(table: str, row: tuple[Any, ...]) -> bytes:
    """The digest of a row of plain strings, numbers and None."""
    return sum_of_text(repr((table, *row)))


def sum_of_text(text: str) -> bytes:
    """The digest of a row whose text is known."""
    return blake2b(text.encode(), digest_size=SIZE).digest()


def require(table: str, row: tuple[Any, ...], found: object) -> None:
    """Raise `CorruptRecordError` unless ``found`` is the digest of ``row``."""
    if sum_of(table, row) != found:
        raise corrupt(f"in the table {table}, the row {row[0]!r} is not as it was written")


def corrupt(what: str) -> CorruptRecordError:
    """The error for a damaged record; ``what`` describes the damage."""
    return CorruptRecordError(f"the record is damaged: {what}. Restore the file from a copy, or choose another path")
