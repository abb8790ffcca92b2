"""The table ``meta``: shows whether rows of the other tables are missing."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from crewbus_sqlite._checksums import corrupt, require, sum_of


class Meta(NamedTuple):
    """The number of logs, the id of the next log, and the least id of a run."""

    id: int = 1
    logs: int = 0
    next_log: int = 1
    first_run: str | None = None


def load(connection: sqlite3.Connection) -> Meta:
    """Read the only row; raises `CorruptRecordError`."""
    rows = connection.execute("SELECT id, logs, next_log, first_run, sum FROM meta").fetchall()
    if len(rows) != 1:
        raise corrupt(f"the table meta has {len(rows)} rows")
    ((*columns, found),) = rows
    meta = Meta(*columns)
    require("meta", meta, found)
    return meta


def save(connection: sqlite3.Connection, meta: Meta) -> None:
    """Write the only row."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?, ?, ?)", (*meta, sum_of("meta", meta)))
