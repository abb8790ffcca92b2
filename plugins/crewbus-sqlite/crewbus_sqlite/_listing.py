"""Summaries of logs: a page of them with a few statements, however many events they have."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence

from crewbus.stores import LogFilter, LogInfo, LogSummary, StoredEvent
from crewbus_sqlite import _events, _holders, _labels, _logs
from crewbus_sqlite._database import Database
from crewbus_sqlite._holders import Holder
from crewbus_sqlite._labels import Entry
from crewbus_sqlite._logs import LogRow
from crewbus_sqlite._schema import SEQ_BITS

LEAST, MOST = 16, 256
"""How many logs are looked at together, if few are asked for, and if many are."""

IsAlive = Callable[[Holder], bool]


def find(database: Database, query: LogFilter, is_alive: Callable[[], IsAlive]) -> Iterator[LogSummary]:
    """The logs that match, the newest first. Between pages no transaction is open."""
    left = math.inf if query.limit is None else query.limit
    labels, below, size = _labels.looked_up(query), _labels.HEAD, int(min(MOST, max(LEAST, left)))
    while left > 0:
        with database.reading() as connection:
            if connection is None:
                return
            entries = [entry for label in labels for entry in _since(connection, label, below, size, query.since)]
            logs = sorted({entry.log for entry in entries}, reverse=True)[:size]
            found = summaries(connection, _logs.grown(connection, _logs.load_all(connection, logs)), is_alive())
        for summary in filter(query.matches, found):
            if left > 0:
                yield summary
                left -= 1
        if not logs:
            return
        below = logs[-1]


def _since(connection: sqlite3.Connection, label: bytes, below: int, size: int, since: float | None) -> list[Entry]:
    found = _labels.page(connection, label, below, size)
    return found if since is None else [entry for entry in found if entry.latest >= since]


def infos(connection: sqlite3.Connection, logs: Sequence[LogRow], is_alive: IsAlive) -> list[LogInfo]:
    """The states of logs."""
    holders = {token: _holders.load(connection, token) for token in {log.holder for log in logs}}
    alive = {token: holder is not None and is_alive(holder) for token, holder in holders.items()}
    forked = [log.parent for log in logs if log.parent is not None]
    parents = {parent.id: parent for parent in _logs.load_all(connection, forked)}
    found = []
    for log in logs:
        holder, parent = holders[log.holder], None if log.parent is None else parents[log.parent].root_id
        found.append(
            LogInfo(
                log.root_id,
                log.epoch,
                log.last,
                bool(log.sealed),
                holder and holder.name,
                holder and holder.until,
                alive[log.holder],
                parent,
                None if parent is None else log.parent_at,
                log.stalls,
                log.due,
            )
        )
    return found


def summaries(connection: sqlite3.Connection, logs: Sequence[LogRow], is_alive: IsAlive) -> list[LogSummary]:
    """The summaries of logs that have events."""
    ends = [log.id << SEQ_BITS | log.ended for log in logs if log.ended >= 0]
    events = _events.load_all(connection, [*{log.origin << SEQ_BITS for log in logs}, *ends])

    def end(log: LogRow) -> StoredEvent | None:
        return events[log.id << SEQ_BITS | log.ended] if log.ended >= 0 else None

    return [
        LogSummary(info, events[log.origin << SEQ_BITS], _time(log.begun), _time(log.at), end(log))
        for log, info in zip(logs, infos(connection, logs, is_alive), strict=True)
    ]


def _time(at: float | None) -> float:
    return math.nan if at is None else at
