"""Settling: what logs have in tails is written into their own rows."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from crewbus.exceptions import CorruptRecordError
from crewbus_sqlite import _events, _logs, _tails
from crewbus_sqlite._events import Latest
from crewbus_sqlite._logs import LogRow, SumTexts


def settle(connection: sqlite3.Connection, log: LogRow) -> LogRow:
    """Write what a log has in tails; its row then. Raises `CorruptRecordError`.

    Whoever changes a log for others than its holder does this first: so a fork, and who takes over a log.
    """
    (now,) = _logs.grown(connection, [log])
    if now is log:
        return log
    row, segment = _events.last_segment(connection, log.id, now.last)
    before = Latest(row[_events.BEFORE], row[_events.MARKED])
    _events.insert(connection, _events.encoded(log.id, row[1], [segment], before), replacing=True)
    _logs.update(connection, [(now, SumTexts.of(log))])
    return now


def settle_all(connection: sqlite3.Connection) -> None:
    """Settle the logs that have tails, whoever wrote these, except damaged ones."""
    logs = set[int]()
    with suppress(CorruptRecordError):
        logs = _tails.logs(connection)
    for log in sorted(logs):
        with suppress(CorruptRecordError):
            for row in _logs.stored(connection, [log]).values():
                settle(connection, _logs.checked(row))
