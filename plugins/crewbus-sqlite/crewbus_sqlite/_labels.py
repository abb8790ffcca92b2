"""The table ``labels``: the logs by state, name and tag, the newest first.

Each label is a linked list: a row names the one before it, so a damaged index can't hide a log.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any, Final, NamedTuple

from crewbus.exceptions import CorruptRecordError
from crewbus.stores import END_STATES, LogFilter, StoredEvent, name_and_tags
from crewbus_sqlite import _events
from crewbus_sqlite._checksums import corrupt, require, sum_of
from crewbus_sqlite._logs import LogRow
from crewbus_sqlite._placeholders import marks, pieces

HEAD: Final = (1 << 63) - 1
"""In place of a log, in the row that begins a list."""
FIRST: Final = b""
"""The least label, which no log has."""
_COLUMNS: Final = "label, log, before, latest, next"


class Entry(NamedTuple):
    """A log in a list, or the head of the list: see the comments in the table."""

    label: bytes
    log: int
    before: int
    latest: float
    next: bytes | None = None


def _label(*says: str) -> bytes:
    return blake2b(repr(says).encode(), digest_size=16).digest()


ALL: Final = _label("log")
OPEN: Final = _label("state", "open")
"""The logs of runs that have not ended, or that have a holder."""
_ENDED: Final = {state: _label("state", state) for state in END_STATES.values()}


def _for_start(name: str | None, tags: Iterable[tuple[str, str]]) -> list[bytes]:
    return [*(_label("tag", *tag) for tag in tags), *([] if name is None else [_label("name", name)])]


def looked_up(query: LogFilter) -> list[bytes]:
    """Labels of which each log that matches has at least one; where there is a choice, those of fewest logs."""
    states = query.states
    if states is not None and not states & _ENDED.keys():
        return [OPEN]
    if query.name is not None or query.tags:
        return _for_start(query.name, query.tags.items())[:1]
    if states is not None:
        return [OPEN, *(_ENDED[state] for state in sorted(states & _ENDED.keys()))]
    return [ALL]


# Reading


def page(connection: sqlite3.Connection, label: bytes, below: int, count: int) -> list[Entry]:
    """The next logs of a list, at most ``count``, the newest first; ``below``: only those with a lower number.

    Raises `CorruptRecordError` if one is missing.
    """
    newer = _at_or_above(connection, label, below)
    found = [*_select(connection, "label = ? AND log < ? ORDER BY log DESC LIMIT ?", label, below, count)]
    if newer is None:
        _before(connection, label)  # raises if the list is there
    expected = 0 if newer is None else newer.before
    for entry in found:
        if entry.log != expected:
            break
        expected = entry.before
    else:
        if not expected or len(found) == count:
            return found
    raise corrupt(f"in the table labels, the row for log {expected} is missing")


# Changing


class Additions:
    """Logs that get their first labels in one transaction: each list is changed once."""

    def __init__(self) -> None:
        self._logs: dict[bytes, list[LogRow]] = {}

    def add(self, log: LogRow, first: StoredEvent) -> None:
        """Add a log, with its event 0."""
        for label in (*_lasting(first), _state(log)):
            self._logs.setdefault(label, []).append(log)

    def save(self, connection: sqlite3.Connection) -> None:
        """Write them."""
        for label, logs in self._logs.items():
            _add(connection, label, sorted(logs))


def update(connection: sqlite3.Connection, before: LogRow, after: LogRow) -> None:
    """Give a log that had events the labels of its new state."""
    old, new = _state(before), _state(after)
    if before.begun != after.begun:
        for label in _lasting(_first(connection, after)):
            _remove(connection, label, after.id)
            _add(connection, label, [after])
    if old != new or before.begun != after.begun:
        _remove(connection, old, after.id)
        _add(connection, new, [after])


def forget(connection: sqlite3.Connection, log: LogRow) -> None:
    """Remove a log from all lists, before its events are deleted."""
    if log.last < 0:
        return
    try:
        labels = [*_lasting(_first(connection, log)), _state(log)]
    except CorruptRecordError:  # a damaged record can be dropped
        labels = [label for (label,) in connection.execute("SELECT label FROM labels WHERE log = ?", (log.id,))]
    for label in labels:
        _remove(connection, label, log.id)


def add_to_all(connection: sqlite3.Connection, log: LogRow) -> None:
    """Give a log that has events its first labels."""
    for label in (*_lasting(_first(connection, log)), _state(log)):
        _add(connection, label, [log])


def add_damaged(connection: sqlite3.Connection, log: LogRow) -> None:
    """Have a log whose summary can't be read be found in listings, which say so then."""
    for label in (ALL, OPEN):
        _add(connection, label, [log])


def _state(log: LogRow) -> bytes:
    if log.outcome is None or (log.holder is not None and not log.sealed):
        return OPEN
    return _ENDED[END_STATES[log.outcome]]


def _first(connection: sqlite3.Connection, log: LogRow) -> StoredEvent:
    return _events.load(connection, log.origin, 0)[1]


def _lasting(first: StoredEvent) -> list[bytes]:
    """The labels that a log keeps, which come from its event 0."""
    name, tags = name_and_tags(first)
    return [ALL, *_for_start(name, tags.items())]


def _add(connection: sqlite3.Connection, label: bytes, logs: Sequence[LogRow]) -> None:
    """Add logs, the oldest first, to the list of a label."""
    entries: list[Entry] = []
    newer: Entry | None = None
    for log in logs:
        if newer is None or newer.log != HEAD:
            _save(connection, *entries)
            entries = []
            newer = _newer(connection, label, log.id)
        begun = -math.inf if log.begun is None else log.begun
        entry = Entry(label, log.id, newer.before, max(newer.latest, begun))
        entries = [*entries[:-1], entry, newer := newer._replace(before=log.id, latest=entry.latest)]
        if newer.log != HEAD:
            _raise(connection, label, newer.log, begun)
    _save(connection, *entries)


def _newer(connection: sqlite3.Connection, label: bytes, log: int) -> Entry:
    """The entry that follows a log in the list of a label, in which the log is not."""
    found = _at_or_above(connection, label, log)
    if found is None:
        before = _before(connection, label)
        _save(connection, before._replace(next=label))
        return Entry(label, HEAD, 0, -math.inf, before.next)
    if found.log == log:
        raise corrupt(f"in the table labels, log {log} is there already")
    return found


def _at_or_above(connection: sqlite3.Connection, label: bytes, log: int) -> Entry | None:
    """The entry of a log in a list, or the next newer one."""
    return next(_select(connection, "label = ? AND log >= ? ORDER BY log LIMIT 1", label, log), None)


def _before(connection: sqlite3.Connection, label: bytes) -> Entry:
    """The head of the list before that of a label, which there is none of; raises `CorruptRecordError` if it was."""
    for entry in _select(connection, "label <= ? ORDER BY label DESC, log DESC LIMIT 1", label):
        if entry.log == HEAD and entry.label < label and (entry.next is None or entry.next > label):
            return entry
    raise corrupt("in the table labels, the head of a list is missing")


def _raise(connection: sqlite3.Connection, label: bytes, above: int, begun: float) -> None:
    """Have the newer entries say that an older log began at this time."""
    while above != HEAD:
        newer = _at_or_above(connection, label, above + 1)
        if newer is None:
            raise corrupt("in the table labels, the head of a list is missing")
        if newer.latest >= begun:
            return
        _save(connection, newer._replace(latest=begun))
        above = newer.log


def _remove(connection: sqlite3.Connection, label: bytes, log: int) -> None:
    found = [*_select(connection, "label = ? AND log >= ? ORDER BY log LIMIT 2", label, log)]
    if [entry.log for entry in found[:1]] != [log] or [entry.before for entry in found[1:]] != [log]:
        raise corrupt(f"in the table labels, the row for log {log} or the next one is missing")
    own, newer = found
    if newer.log == HEAD and not own.before:
        connection.execute("DELETE FROM labels WHERE label = ?", (label,))
        _unlink(connection, newer)
        return
    connection.execute("DELETE FROM labels WHERE label = ? AND log = ?", (label, log))
    _save(connection, newer._replace(before=own.before))


def _unlink(connection: sqlite3.Connection, head: Entry) -> None:
    for before in _select(connection, "label < ? ORDER BY label DESC, log DESC LIMIT 1", head.label):
        if before.log == HEAD and before.next == head.label:
            _save(connection, before._replace(next=head.next))
            return
    raise corrupt("in the table labels, the head of a list is missing")


def create(connection: sqlite3.Connection) -> None:
    """Write the row before all labels."""
    _save(connection, Entry(FIRST, HEAD, 0, -math.inf))


def _select(connection: sqlite3.Connection, where: str, *values: Any) -> Iterator[Entry]:
    for *columns, found in connection.execute(f"SELECT {_COLUMNS}, sum FROM labels WHERE {where}", values).fetchall():
        entry = Entry(*columns)
        require("labels", entry, found)
        yield entry


def _save(connection: sqlite3.Connection, *entries: Entry) -> None:
    rows = [(*entry, sum_of("labels", entry)) for entry in entries]
    for piece in pieces(rows):
        connection.execute(f"INSERT OR REPLACE INTO labels VALUES {marks(piece, 6)}", list(chain(*piece)))
