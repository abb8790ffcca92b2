"""The table ``meta``: shows whether rows of the other tables are missing."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from crewbus_sqlite._checksums import corrupt, sum_of


class Meta(NamedTuple):
    """The number of logs, the id of the next log, the least id of a run, and the number of tails."""

    id: int = 1
    logs: int = 0
    next_log: int = 1
    first_run: str | None = None
    tails: int = 0

    @property
    def sum(self) -> bytes:
        """The digest of the row: without tails, as before there were any."""
        return sum_of("meta", self if self.tails else self[:-1])


def load(connection: sqlite3.Connection) -> Meta:
    """Read the only row; raises `CorruptRecordError`."""
    rows = connection.execute("SELECT id, logs, next_log, first_run, tails, sum FROM meta").fetchall()
    if len(rows) != 1:
        raise corrupt(f"the table meta has {len(rows)} rows")
    ((*columns, found),) = rows
    meta = Meta(*columns)
    if meta.sum != found:
        raise corrupt(f"in the table meta, the row {meta.id!r} is not as it was written")
    return meta


def save(connection: sqlite3.Connection, meta: Meta) -> None:
    """Write the only row."""
    connection.execute(
        "INSERT OR REPLACE INTO meta (id, logs, next_log, first_run, tails, sum) VALUES (?, ?, ?, ?, ?, ?)",
        (*meta, meta.sum),
    )
