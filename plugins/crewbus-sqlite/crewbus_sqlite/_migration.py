"""Migration: the files of earlier releases get the tables of this one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from crewbus.exceptions import CorruptRecordError
from crewbus.stores import ENDS
from crewbus_sqlite import _events, _labels, _logs
from crewbus_sqlite._checksums import require
from crewbus_sqlite._events import latest_of
from crewbus_sqlite._logs import FIRST_COLUMNS, RESUMED, SECOND_COLUMNS, LogRow
from crewbus_sqlite._schema import (
    ADD_COUNT,
    ADD_TAILS,
    CLAIMABLE,
    LABELS,
    LOG_INDEXES,
    LOGS,
    MESSAGES,
    TAILS,
    VERSION,
)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a file of an earlier version to this one, inside the caller's transaction.

    A damaged record stays as it is: whatever needs it raises `CorruptRecordError`.
    """
    connection.execute(ADD_TAILS)  # no tails, and so the same digest
    connection.execute(TAILS)
    if version < 4:
        connection.execute(ADD_COUNT)  # rows of former versions have one event, and so the same digest
    if version < 3:
        _migrate_logs(connection, _from_first if version == 1 else _from_second)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _migrate_logs(connection: sqlite3.Connection, copy: Callable[[sqlite3.Connection], None]) -> None:
    for index in ("parents", "held"):
        connection.execute(f"DROP INDEX {index}")
    connection.execute("ALTER TABLE logs RENAME TO former_logs")
    for statement in (LOGS, *LOG_INDEXES, CLAIMABLE, *MESSAGES):
        connection.execute(statement)
    copy(connection)
    connection.execute("DROP TABLE former_logs")


def _from_second(connection: sqlite3.Connection) -> None:
    """Copy the rows of version 2, which have all columns but the last."""
    for *columns, found in connection.execute(f"SELECT {SECOND_COLUMNS}, sum FROM former_logs ORDER BY id"):
        log = LogRow(*columns)
        try:
            require("logs", tuple(columns), found)
        except CorruptRecordError:  # under a wrong digest it stays damaged
            _logs.save_damaged(connection, log)
        else:
            _logs.save(connection, log)


def _from_first(connection: sqlite3.Connection) -> None:
    """Copy the rows of version 1, and list the logs.

    The ids in shared events of a fork of a fork depend on each log between, so migrated forks keep all of these as
    their bases.
    """
    connection.execute(LABELS)
    _labels.create(connection)
    for *columns, found in connection.execute(f"SELECT {FIRST_COLUMNS}, sum FROM former_logs ORDER BY id"):
        _migrate_log(connection, LogRow(*columns), found)


def _migrate_log(connection: sqlite3.Connection, old: LogRow, found: object) -> None:
    log = old._replace(base=old.parent, origin=old.id)
    try:
        require("logs", old[: len(FIRST_COLUMNS.split(", "))], found)
        base = None if old.parent is None else _logs.load(connection, old.parent)
    except CorruptRecordError:  # under a wrong digest it stays damaged
        _logs.save_damaged(connection, log)
        _labels.add_damaged(connection, log)
        return
    if base is not None:
        log = _logs.based(connection, log._replace(origin=base.origin), base)
    if log.last >= 0:
        log = _with_end(connection, log)
    _logs.save(connection, log)
    if log.last >= 0:
        try:
            _labels.add_to_all(connection, log)
        except CorruptRecordError:  # in event 0, which every summary needs
            _labels.add_damaged(connection, log)


def _with_end(connection: sqlite3.Connection, log: LogRow) -> LogRow:
    """A row that says when its run began and how it ended, from the events."""
    seq = min(log.parent_at + 1, log.last)
    try:
        first = _events.load(connection, _logs.owner(connection, log, seq).id, seq)[1]
        seq = log.last
        row, last = _events.load(connection, _logs.owner(connection, log, seq).id, seq)
        log = log._replace(begun=_logs.time_of(first), at=_logs.time_of(last))
        seq = latest_of(row)[1].mark
        while seq > log.parent_at:
            row, event = _events.load(connection, log.id, seq)
            if event.name == RESUMED:
                break
            if event.name in ENDS and event.run_id == log.root_id:
                return log._replace(ended=seq, outcome=event.name)
            seq = latest_of(row)[0].mark
    except CorruptRecordError:
        return log._replace(ended=seq)  # so that a summary needs the damaged event
    return log
