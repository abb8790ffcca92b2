"""Batches: what one statement writes of each log, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import attrs

from crewbus.exceptions import CrewbusError, FencedError, RecordingError
from crewbus.stores import StoredEvent, name_and_tags
from crewbus_postgres import _events, _logs
from crewbus_postgres._columns import Columns
from crewbus_postgres._events import digest
from crewbus_postgres._logs import LogRow
from crewbus_postgres._session import Row, Session

Notify = Callable[[BaseException | None], None]

_BATCH: Final = Columns(
    id="bigint",
    epoch="bigint",
    before="bigint",
    last="bigint",
    begun="float8",
    at="float8",
    ended="bigint",
    outcome="bytea",
    got_on="bool",
    seal="bool",
    tags="bytea",
)
_RUN: Final = Columns(key="bytea", log="bigint")
_LABEL: Final = Columns(label="bytea", log="bigint")
_MINE: Final = (
    "UPDATE $s.logs l SET last = b.last, begun = b.begun, at = b.at, ended = b.ended, "
    "outcome = convert_from(b.outcome, 'UTF8'), stalls = CASE WHEN b.got_on OR b.seal THEN 0 ELSE l.stalls END, "
    "tags = coalesce(b.tags, l.tags), "
    "sealed = b.seal, holder = CASE WHEN b.seal THEN NULL ELSE l.holder END "
    "FROM b WHERE l.id = b.id AND l.epoch = b.epoch AND l.last = b.before AND NOT l.sealed "
    "RETURNING l.id, l.watched > clock_timestamp() AS watched"
)
_PARTS: Final = (
    (_events.COLUMNS, f"INSERT INTO $s.events ({_events.NAMES}) SELECT * FROM {{}} WHERE log IN (SELECT id FROM mine)"),
    (_RUN, "INSERT INTO $s.runs SELECT * FROM {} WHERE log IN (SELECT id FROM mine) ON CONFLICT DO NOTHING"),
    (_LABEL, "INSERT INTO $s.labels SELECT * FROM {} WHERE log IN (SELECT id FROM mine)"),
)
"""What one statement inserts for the logs that it finds as they should be: events, run ids, labels."""
_BEGIN: Final = (
    "WITH n AS MATERIALIZED (SELECT key, root_id, nextval(pg_get_serial_sequence(%s, 'id')) AS id "
    "FROM (SELECT * FROM unnest(%b::bytea[], %b::bytea[]) WITH ORDINALITY AS u(key, root_id, at) ORDER BY at) u), "
    "r AS (INSERT INTO $s.runs SELECT key, id FROM n ON CONFLICT DO NOTHING RETURNING key, log) "
    f"INSERT INTO $s.logs ({_logs.COLUMNS}, maker) "
    "SELECT r.log, n.root_id, 1, -1, false, %s, NULL, -1, r.log, NULL, NULL, -1, NULL, 0, NULL, 0, 0, %s "
    "FROM r JOIN n USING (key)"
)


@attrs.define(eq=False)
class Log:
    """A log that this store writes: what is in the database, and what is queued."""

    row: LogRow
    """As this store last wrote it; its id is 0 until it is in the database."""
    epoch: int
    events: list[StoredEvent] = attrs.field(factory=list)
    taken_to: int = -1
    """The number of the last event that a batch took from the queue."""
    size: int = 0
    """The bytes that the queued events take, estimated."""
    runs: set[str] = attrs.field(factory=set)
    """The runs in it of which an event was queued here."""
    new_runs: list[tuple[int, str]] = attrs.field(factory=list)
    """Those whose first event is queued, with its number."""
    finishing: bool = False
    ticket: int = 0
    """The ticket of its last queued write."""
    error: CrewbusError | None = None
    """Why it is no longer written: another process took or dropped it."""
    waiting: list[tuple[int, Notify]] = attrs.field(factory=list)

    @property
    def last(self) -> int:
        """The number of the last event that was accepted."""
        return self.events[-1].seq if self.events else self.taken_to


@attrs.define(eq=False)
class Batch:
    """Queued writes of a log, and their outcome."""

    log: Log
    events: list[StoredEvent]
    runs: list[tuple[int, str]]
    """The runs whose first event here is among them, with its number."""
    size: int
    seals: bool
    row: LogRow
    """The log's row before them, or after them once they are written."""
    error: CrewbusError | None = None
    is_watched: bool = False
    """Whether somebody is to be told of it."""

    def values(self) -> Row:
        """The values of its log in the statement."""
        before, after = self.row, self.row.after(self.events)
        got_on = after.stalls == 0 and before.stalls != 0
        outcome = None if after.outcome is None else after.outcome.encode()
        tags = None
        if self.events and self.events[0].seq == 0:
            tags = json.dumps(name_and_tags(self.events[0])[1]).encode()
        state = (after.last, after.begun, after.at, after.ended, outcome)
        return (before.id, self.log.epoch, before.last, *state, got_on, self.seals, tags)

    def labels(self) -> list[tuple[bytes, int]]:
        """The labels that its log gets, with the log's id."""
        if not self.events or self.events[0].seq != 0:
            return []
        return [(label, self.row.id) for label in _logs.labels_of(self.events[0])]


def write(session: Session, batches: list[Batch], token: str) -> None:
    """Write all batches, for the holder ``token``; each keeps its own error.

    Repeated after an answer was lost, it writes nothing twice.
    """
    _begin([batch for batch in batches if not batch.row.id], session, token)
    ready = [batch for batch in batches if batch.error is None]
    if not ready:
        return
    found: dict[int, bool | None] = dict(session.rows(*_statement(ready)))
    missing = [batch for batch in ready if batch.row.id not in found]
    _explain(session, missing)
    for batch in ready:
        if batch.error is None:
            batch.row = batch.row.after(batch.events)
            batch.is_watched = bool(found.get(batch.row.id, True))


def _statement(batches: list[Batch]) -> tuple[str, *tuple[object, ...]]:
    """The statement that writes batches, with its values.

    A log that is missing in the answer was not changed: it was taken, dropped or already written. See `_explain`.
    """
    events = [row for batch in batches for row in _events.encoded(batch.row.id, batch.log.epoch, batch.events)]
    runs = [(digest(run), batch.row.id) for batch in batches for _, run in batch.runs]
    labels = [label for batch in batches for label in batch.labels()]
    source, values = _BATCH.source([batch.values() for batch in batches], "b")
    query = f"WITH b AS MATERIALIZED (SELECT * FROM {source}), mine AS ({_MINE})"
    for number, ((columns, insert), rows) in enumerate(zip(_PARTS, (events, runs, labels), strict=True)):
        if rows:
            source, more = columns.source(rows, "e")
            query += f", part{number} AS ({insert.format(source)})"
            values += more
    return (f"{query} SELECT id, watched FROM mine", *values)


def _begin(batches: list[Batch], session: Session, token: str) -> None:
    """Create logs that are not in the database yet."""
    if not batches:
        return
    keys = [digest(batch.row.root_id) for batch in batches]
    roots = [batch.row.root_id.encode() for batch in batches]
    session.rows(_BEGIN, f"{session.schema}.logs", keys, roots, token, token)
    mine = session.rows(  # also those of an earlier try whose answer was lost
        "SELECT l.root_id, l.id FROM $s.runs r JOIN $s.logs l ON l.id = r.log "
        "WHERE r.key = ANY(%b::bytea[]) AND l.maker = %s AND l.epoch = 1",
        keys,
        token,
    )
    ids = {root.decode(): log for root, log in mine}
    for batch in batches:
        log = ids.get(batch.row.root_id)
        if log is None:
            batch.error = _logs.in_use(batch.row.root_id)
        else:
            batch.row = batch.row._replace(id=log, origin=log)


def lost(session: Session, idle: list[Batch]) -> list[Batch]:
    """Those of which the log was lost, with the error; nothing is to be written of any."""
    if not idle:
        return []
    held = session.rows(
        "SELECT l.id FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[]) AS h(id, epoch, last) "
        "JOIN $s.logs l ON l.id = h.id AND l.epoch = h.epoch AND l.last >= h.last",
        [batch.row.id for batch in idle],
        [batch.log.epoch for batch in idle],
        [batch.row.last for batch in idle],
    )
    kept = {log for (log,) in held}
    missing = [batch for batch in idle if batch.row.id not in kept]
    _explain(session, missing)
    return [batch for batch in missing if batch.error is not None]


def loss(session: Session, log: Log) -> CrewbusError | None:
    """Why a log of which nothing is queued is no longer held, if it is not; keeps others from taking it meanwhile."""
    session.rows("SELECT 1 FROM $s.logs WHERE id = %s FOR UPDATE", log.row.id)
    batch = Batch(log, [], [], 0, False, log.row)
    _explain(session, [batch])
    return batch.error


def _explain(session: Session, batches: list[Batch]) -> None:
    """Find out why batches were not written."""
    if not batches:
        return
    rows = session.rows(
        "SELECT l.id, l.epoch, l.last, l.sealed, h.name FROM $s.logs l LEFT JOIN $s.holders h ON h.token = l.holder "
        "WHERE l.id = ANY(%b::bigint[])",
        [batch.row.id for batch in batches],
    )
    found = {row[0]: row[1:] for row in rows}
    for batch in batches:
        batch.error = _error_of(batch, *found.get(batch.row.id, (None, -1, False, None)))


def _error_of(batch: Batch, epoch: int | None, last: int, sealed: bool, holder: str | None) -> CrewbusError | None:
    """Why a batch is not written, if it is not, by what the server says of its log."""
    root, own, after = batch.row.root_id, batch.log.epoch, batch.row.after(batch.events)
    if epoch is None:
        return FencedError(
            f"run {root} is not in the database any more: another process has dropped it, or the server has lost it, "
            "as after a failover; writes of this process are rejected"
        )
    if epoch > own:
        by = "" if holder is None else f" by {holder}"
        return FencedError(f"run {root} was taken over{by}: writes of this process are rejected")
    if epoch == own and last >= after.last and (sealed or not batch.seals):
        return None  # it is as it should be, or an earlier try has written it, whose answer was lost
    return RecordingError(
        f"run {root}: the server has lost what it had acknowledged, as after a failover to a replica that lacks the "
        f"last commits: event {batch.row.last} was written, and its last one is {last}"
    )
