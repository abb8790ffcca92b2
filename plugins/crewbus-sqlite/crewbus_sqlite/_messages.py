"""The table ``messages``: the mailboxes of logs. The row of a log says how many it has, so that none is missed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Final

from crewbus.exceptions import RecordingError, RunEndedError
from crewbus.stores import Posted
from crewbus_sqlite import _logs
from crewbus_sqlite._checksums import corrupt, require, sum_of
from crewbus_sqlite._logs import LogRow
from crewbus_sqlite._placeholders import marks, pieces

_COLUMNS: Final = "log, number, channel, data, key, at"


def check(root_id: str, channel: str, key: str | None) -> None:
    """Raise `RecordingError` unless SQLite can store the texts of a message."""
    for text in (channel, key or ""):
        if not _logs.storable(text):
            raise RecordingError(f"run {root_id}: the text {text!r} of a message contains a lone surrogate")


def find(connection: sqlite3.Connection, log: LogRow, channel: str, key: str) -> int | None:
    """The number of the message with a key; None if there is none."""
    query = f"SELECT {_COLUMNS}, sum FROM messages WHERE log = ? AND channel = ? AND key = ?"
    for *columns, found in connection.execute(query, (log.id, channel, key)).fetchall():
        require("messages", tuple(columns), found)
        return int(columns[1])
    return None


def add(connection: sqlite3.Connection, log: LogRow, message: Posted) -> LogRow:
    """Write the next message of a log, and return the log with it; raises `RunEndedError` if it is sealed."""
    if log.sealed:
        raise RunEndedError(f"run {log.root_id} has ended: it takes no messages any more")
    row = (log.id, *message)
    connection.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, sum_of("messages", row)))
    return log._replace(messages=log.messages + 1, due=None)


def having(connection: sqlite3.Connection, after: Sequence[tuple[int, int]]) -> list[int]:
    """Which of these logs, each with a number, say that they have messages above it. Few have: no other row is read."""
    found = []
    for piece in pieces(after):
        query = (
            f"SELECT id FROM (VALUES {marks(piece, 2)}) AS asked "
            "CROSS JOIN logs ON logs.id = asked.column1 AND logs.messages > asked.column2 + 1"
        )
        found += [log for (log,) in connection.execute(query, list(chain(*piece))).fetchall()]
    return found


def load(connection: sqlite3.Connection, log: LogRow, after: int) -> list[Posted]:
    """The messages of a log with numbers above ``after``; raises `CorruptRecordError` if one is missing."""
    found = []
    query = f"SELECT {_COLUMNS}, sum FROM messages WHERE log = ? AND number > ? ORDER BY number"
    for *columns, digest in connection.execute(query, (log.id, after)).fetchall():
        require("messages", tuple(columns), digest)
        found.append(Posted(*columns[1:]))
    if [message.number for message in found] != list(range(max(after + 1, 0), log.messages)):
        raise corrupt(f"of the {log.messages} messages to run {log.root_id}, some are missing")
    return found
