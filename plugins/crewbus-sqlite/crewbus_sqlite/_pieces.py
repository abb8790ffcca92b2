"""Pieces: how many rows one statement reads or writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

SIZES: Final = (500, 100, 20, 4, 1)
"""Each statement lets other threads run, and has to wait for them, so there are to be few. Each size is a statement of
its own, which sqlite3 keeps compiled, at some 500 bytes a row, so the sizes are few too."""


def pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """``rows`` in pieces, each of one of the sizes."""
    at = 0
    for size in SIZES:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


def marks(rows: Sequence[Any], columns: int) -> str:
    """The places of so many rows in a statement."""
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * len(rows))
