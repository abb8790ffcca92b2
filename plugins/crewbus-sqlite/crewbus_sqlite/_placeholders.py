"""Placeholders of statements for many rows, and how many rows one statement reads or writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

SIZES: Final = (500, 100, 20, 4, 1)
"""The rows of one statement. Few statements are fast, since each releases the GIL and waits to get it back. Few sizes
save memory, since sqlite3 keeps a compiled statement for each, of about 500 bytes a row."""


def pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split ``rows`` into pieces of these sizes."""
    at = 0
    for size in SIZES:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


def marks(rows: Sequence[Any], columns: int) -> str:
    """The placeholders of these rows in a statement."""
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * len(rows))
