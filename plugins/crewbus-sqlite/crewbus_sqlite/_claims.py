"""Claims: finds the logs that nobody holds, without reading those that have ended, are held, or wait."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any, Final

from crewbus.stores import MOST_STALLS, SUSPENDED, Claim, name_and_tags
from crewbus.stores.claims import Room
from crewbus_sqlite import _events, _holders, _logs
from crewbus_sqlite._checksums import corrupt
from crewbus_sqlite._holders import Holder
from crewbus_sqlite._logs import LogRow
from crewbus_sqlite._schema import MAY_BE_CLAIMED, SEQ_BITS

_READY: Final = (
    f"SELECT id FROM logs INDEXED BY claimable WHERE holder IS NULL AND {MAY_BE_CLAIMED} AND due IS NULL ORDER BY id"
)
_DUE: Final = f"SELECT id FROM logs INDEXED BY claimable WHERE holder IS NULL AND {MAY_BE_CLAIMED} AND due <= ?"
_HELD_BY: Final = "SELECT id FROM logs INDEXED BY held WHERE holder = ?"
_ORPHANS: Final = f"{_HELD_BY} AND {MAY_BE_CLAIMED} ORDER BY id"
PIECE: Final = 256
MOST_KNOWN: Final = 50_000
"""The logs whose tags are remembered."""

Tags = dict[str, str]
IsAlive = Callable[[Holder], bool]


class Claims:
    """Finds logs for claims. It remembers tags, which never change: an id is never given twice."""

    def __init__(self) -> None:
        self._tags: dict[int, Tags] = {}

    def find(self, connection: sqlite3.Connection, claim: Claim, now: float, is_alive: IsAlive) -> list[LogRow]:
        """The logs that a claim takes at this time, inside the caller's transaction."""
        holders = _holders.every(connection)
        alive = [holder.token for holder in holders if is_alive(holder)]
        dead = [holder.token for holder in holders if holder.token not in alive]
        room = self._room(connection, claim, alive)
        found: list[int] = []
        for log, tags in self._candidates(connection, _unheld(connection, dead, now)):
            if len(found) >= claim.limit:
                break
            if claim.accepts(tags) and room.admits(tags):
                room.add(tags)
                found.append(log)
        rows = _logs.load_all(connection, found)
        for row in rows:
            if not _may_be_claimed(row, dead, now):
                raise corrupt(f"an index of the table logs says that run {row.root_id} can be claimed")
        return rows

    def _room(self, connection: sqlite3.Connection, claim: Claim, alive: list[str]) -> Room:
        counted = {cap.tag for cap in claim.caps}
        held = [log for token in alive if counted for (log,) in connection.execute(_HELD_BY, (token,)).fetchall()]
        found = Counter[tuple[str, str]]()
        for _, tags in self._candidates(connection, held):
            found.update(item for item in tags.items() if item[0] in counted)
        return Room(claim.caps, lambda tag, value: found[tag, value])

    def _candidates(self, connection: sqlite3.Connection, logs: Iterable[int]) -> Iterator[tuple[int, Tags]]:
        """These logs with the tags of their runs."""
        left, size = iter(logs), 16
        while some := list(islice(left, size)):
            known = self._known(connection, some)
            yield from ((log, known[log]) for log in some)
            size = PIECE

    def _known(self, connection: sqlite3.Connection, logs: list[int]) -> dict[int, Tags]:
        known = {log: tags for log in logs if (tags := self._tags.get(log)) is not None}
        rows = _logs.load_all(connection, [log for log in logs if log not in known])
        firsts = _events.load_all(connection, [row.origin << SEQ_BITS for row in rows if row.last >= 0])
        new = {row.id: name_and_tags(firsts[row.origin << SEQ_BITS])[1] for row in rows if row.last >= 0}
        if len(self._tags) + len(new) > MOST_KNOWN:
            self._tags.clear()
        self._tags.update(new)
        return {log: known.get(log) or new.get(log, {}) for log in logs}


def _unheld(connection: sqlite3.Connection, dead: list[str], now: float) -> Iterator[int]:
    """The logs that may be claimed, the oldest first."""
    due = sorted(_ids(connection, _DUE, now))
    return merge(_ids(connection, _READY), due, *(_ids(connection, _ORPHANS, token) for token in dead))


def _ids(connection: sqlite3.Connection, query: str, *values: Any) -> Iterator[int]:
    return (log for (log,) in connection.execute(query, values))


def _may_be_claimed(row: LogRow, dead: list[str], now: float) -> bool:
    has_ended = row.ended >= 0 and row.outcome != SUSPENDED
    is_open = not (row.sealed or has_ended) and row.last >= 0 and row.stalls < MOST_STALLS
    is_ours = (row.epoch > 0 or row.parent is None) and (row.holder is None or row.holder in dead)
    return is_open and is_ours and (row.due is None or row.due <= now)
