"""The table ``runs``: which log contains a run.

It is a linked list in the order of the ids: a row whose successor is greater proves that a run is *not* recorded, so a
damaged index can't hide a run.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from crewbus_sqlite import _meta
from crewbus_sqlite._checksums import corrupt, require, sum_of


class _Entry(NamedTuple):
    run_id: str
    log: int
    next: str | None


def log_of(connection: sqlite3.Connection, run_id: str) -> int | None:
    """The id of the log that contains a run, or None."""
    found = _at_or_before(connection, run_id)
    return found.log if found is not None and found.run_id == run_id else None


def claim(connection: sqlite3.Connection, run_id: str, log: int) -> int:
    """Add a run to a log, unless it is in one already; returns the id of the log that contains it."""
    found = _at_or_before(connection, run_id)
    if found is not None and found.run_id == run_id:
        return found.log
    if found is None:
        meta = _meta.load(connection)
        following = meta.first_run
        _meta.save(connection, meta._replace(first_run=run_id))
    else:
        following = found.next
        _save(connection, found._replace(next=run_id))
    _save(connection, _Entry(run_id, log, following))
    return log


def free(connection: sqlite3.Connection, run_id: str, log: int) -> None:
    """Remove a run, if it is in that log."""
    entry = _at_or_before(connection, run_id)
    if entry is None or entry.run_id != run_id or entry.log != log:
        return
    connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))
    previous = _last(connection, "WHERE run_id < ?", run_id)
    if previous is None:
        _meta.save(connection, _meta.load(connection)._replace(first_run=entry.next))
    else:
        _save(connection, previous._replace(next=entry.next))


def _at_or_before(connection: sqlite3.Connection, run_id: str) -> _Entry | None:
    """The entry of a run, or of the run before it; raises `CorruptRecordError` if one is missing."""
    found = _last(connection, "WHERE run_id <= ?", run_id)
    following = _meta.load(connection).first_run if found is None else found.next
    if following is not None and following <= run_id:
        raise corrupt(f"in the table runs, the row {following!r} is missing")
    return found


def _last(connection: sqlite3.Connection, where: str, run_id: str) -> _Entry | None:
    query = f"SELECT run_id, log, next, sum FROM runs {where} ORDER BY run_id DESC LIMIT 1"
    for *columns, found in connection.execute(query, (run_id,)).fetchall():
        entry = _Entry(*columns)
        require("runs", entry, found)
        return entry
    return None


def _save(connection: sqlite3.Connection, entry: _Entry) -> None:
    connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", (*entry, sum_of("runs", entry)))
