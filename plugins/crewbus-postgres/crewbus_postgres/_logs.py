"""The table ``logs``: one row for each root run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from crewbus.exceptions import RecordingError, RunIdInUseError, RunNotFoundError
from crewbus.stores import ENDS, PROGRESS, StoredEvent, name_and_tags
from crewbus_postgres import _events
from crewbus_postgres._events import digest
from crewbus_postgres._session import Session

COLUMNS: Final = (
    "id, root_id, epoch, last, sealed, holder, parent, parent_at, origin, begun, at, ended, outcome, stalls, due, "
    "messages, known"
)
SELECT: Final = f"SELECT {', '.join(f'l.{name}' for name in COLUMNS.split(', '))} FROM $s.logs l"
BY_ROOT: Final = "l.id = (SELECT log FROM $s.runs WHERE key = %s) AND l.root_id = %s"
RESUMED: Final = "crewbus.RunResumed"
NOW: Final = "extract(epoch FROM clock_timestamp())::float8"
"""Seconds since the epoch by the clock of the server."""


class LogRow(NamedTuple):
    """The state of a log: see the comments in the schema."""

    id: int
    root_id: str
    epoch: int = 0
    last: int = -1
    sealed: bool = False
    holder: str | None = None
    parent: int | None = None
    parent_at: int = -1
    origin: int = 0
    begun: float | None = None
    at: float | None = None
    ended: int = -1
    outcome: str | None = None
    stalls: int = 0
    due: float | None = None
    messages: int = 0
    known: int = 0

    @classmethod
    def load(cls, row: Sequence[object]) -> LogRow:
        """A row of `SELECT`."""
        found = cls(*row[: len(cls._fields)])  # type: ignore[arg-type]
        return found._replace(root_id=row[1].decode())  # type: ignore[attr-defined]

    def after(self, events: Sequence[StoredEvent]) -> LogRow:
        """The state after more events."""
        if not events:
            return self
        ended, outcome, stalls = self.ended, self.outcome, self.stalls
        for event in events:
            if event.name in PROGRESS:
                stalls = 0
            if event.name in ENDS:
                if event.run_id == self.root_id:
                    ended, outcome = event.seq, event.name
            elif event.name == RESUMED:
                ended, outcome = -1, None
        begun = events[0].at if self.last == self.parent_at else self.begun
        last = events[-1]
        return self._replace(last=last.seq, begun=begun, at=last.at, ended=ended, outcome=outcome, stalls=stalls)


class Part(NamedTuple):
    """The events of a log that were written to the log of that id and root run."""

    log: int
    root_id: str
    first: int
    last: int


def is_text(text: str) -> bool:
    """Whether a text can be stored: lone surrogates can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def key_of(root_id: str) -> tuple[bytes, bytes]:
    """The values for `BY_ROOT`."""
    return (digest(root_id), root_id.encode()) if is_text(root_id) else (b"", b"")


def find(session: Session | None, root_id: str, *, lock: bool = False) -> LogRow:
    """The log of a root run, which nobody else changes until the transaction ends if it is locked.

    Raises `RunNotFoundError`.
    """
    lock_it = " FOR UPDATE" if lock else ""
    rows = [] if session is None else session.rows(f"{SELECT} WHERE {BY_ROOT}{lock_it}", *key_of(root_id))
    for row in rows:
        return LogRow.load(row)
    raise RunNotFoundError(f"run {root_id} is not recorded in this store")


def create(session: Session, log: LogRow, events: Sequence[StoredEvent]) -> int:
    """Add a log with its first events, inside the caller's transaction, and return its id.

    Raises `RunIdInUseError` if that run is recorded already.
    """
    ((log_id,),) = session.rows("SELECT nextval(pg_get_serial_sequence(%s, 'id'))", f"{session.schema}.logs")
    if not session.rows(
        "INSERT INTO $s.runs VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING log", digest(log.root_id), log_id
    ):
        raise in_use(log.root_id)
    log = log.after(events)._replace(id=log_id, origin=log.origin or log_id)
    marks = ", ".join(["%s"] * len(log))
    session.rows(
        f"INSERT INTO $s.logs ({COLUMNS}) VALUES ({marks})",
        *(log._replace(root_id=log.root_id.encode())),  # type: ignore[arg-type]
    )
    _events.insert(session, _events.encoded(log_id, log.epoch, events))
    add_runs(session, log_id, {event.run_id for event in events})
    return int(log_id)


def add_runs(session: Session, log: int, runs: set[str]) -> None:
    """Note that runs are in a log, unless they are in another one."""
    session.rows(
        "INSERT INTO $s.runs SELECT key, %s FROM unnest(%b::bytea[]) AS r(key) ON CONFLICT DO NOTHING",
        log,
        [digest(run) for run in runs],
    )


def set_labels(session: Session, log: int, first: StoredEvent) -> None:
    """Have a log be found by the name and the tags that its event 0 says."""
    session.rows("INSERT INTO $s.labels SELECT label, %s FROM unnest(%b::bytea[]) AS l(label)", log, labels_of(first))
    session.rows("UPDATE $s.logs SET tags = %s WHERE id = %s", json.dumps(name_and_tags(first)[1]).encode(), log)


def labels_of(first: StoredEvent) -> list[bytes]:
    """The labels that a log gets from its event 0."""
    name, tags = name_and_tags(first)
    return [*(tag_label(*tag) for tag in tags.items()), *([] if name is None else [name_label(name)])]


def tag_label(key: str, value: str) -> bytes:
    """The label of the logs with a tag."""
    return digest("tag", key, value)


def name_label(name: str) -> bytes:
    """The label of the logs whose root runs have a name."""
    return digest("name", name)


def parts(session: Session, log: LogRow) -> list[Part]:
    """Where the events of a log were written, oldest first; the last part is the log's own."""
    ancestors = session.rows(
        "WITH RECURSIVE up AS (SELECT id, root_id, parent, parent_at, 1 AS depth FROM $s.logs WHERE id = %s "
        "UNION ALL SELECT p.id, p.root_id, p.parent, p.parent_at, depth + 1 FROM up JOIN $s.logs p ON p.id = up.parent)"
        "SELECT id, root_id, parent_at FROM up ORDER BY depth",
        log.parent,
    )
    shared = log.parent_at
    found = [Part(log.id, log.root_id, shared + 1, log.last)]
    for ancestor, root_id, parent_at in ancestors:
        last, shared = shared, min(shared, parent_at)
        if shared < last:
            found.append(Part(ancestor, root_id.decode(), shared + 1, last))
    return found[::-1]


def in_use(run_id: str) -> RunIdInUseError:
    """The error for an id that is recorded already."""
    return RunIdInUseError(f"run {run_id} is recorded already: choose another id")


def named(run_id: str) -> str:
    """A run's id as a plain string; raises `RecordingError` if it can't be stored."""
    if not is_text(run_id):
        raise RecordingError(f"a run can't be named {run_id!r}: it contains a lone surrogate")
    return str.__str__(run_id)
