"""Claims: finds the logs that nobody holds, and keeps others from taking them until the transaction ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from crewbus.stores import Claim
from crewbus.stores.claims import Room
from crewbus_postgres._holders import ALIVE
from crewbus_postgres._logs import NOW, is_text, tag_label
from crewbus_postgres._reader import PIECE, tags_of
from crewbus_postgres._schema import MAY_BE_CLAIMED
from crewbus_postgres._session import Session

_FREE: Final = (
    "FROM $s.logs l LEFT JOIN $s.holders h ON h.token = l.holder "
    f"WHERE {MAY_BE_CLAIMED} AND (l.due IS NULL OR l.due <= {NOW}) AND (l.holder IS NULL OR "
    f"(l.holder <> %s AND NOT coalesce({ALIVE}, false)))"
)
"""A log without an ``until`` names a holder whose row is gone: it is dead."""


def candidates(session: Session, claim: Claim, own: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The logs that nobody holds and that match, with their tags, the oldest first; ``own``: the claiming holder."""
    tags, labels = "", list[object]()
    for tag, values in claim.tags.items():
        tags += " AND EXISTS (SELECT 1 FROM $s.labels n WHERE n.log = l.id AND n.label = ANY(%b::bytea[]))"
        labels.append([tag_label(tag, value) for value in values if is_text(tag) and is_text(value)])
    query, above = f"SELECT l.id, l.tags {_FREE}{tags} AND l.id > %s ORDER BY l.id LIMIT %s", 0
    while rows := session.rows(query, own, *labels, above, PIECE):
        for log, data in rows:
            found = tags_of(data)
            if claim.accepts(found):
                yield log, found
        if len(rows) < PIECE:
            return
        above = rows[-1][0]


def choose(session: Session, claim: Claim, own: str) -> list[int]:
    """The ids of the logs that a claim takes, which are locked; one claim chooses at a time."""
    session.rows("SELECT pg_advisory_xact_lock(hashtextextended(%s, 7))", f"crewbus claim {session.schema}")
    room, chosen = _room(session, claim), list[int]()
    for log, tags in candidates(session, claim, own):
        if len(chosen) >= claim.limit:
            break
        if room.admits(tags):
            room.add(tags)
            chosen.append(log)
    query = f"SELECT l.id {_FREE} AND l.id = ANY(%b::bigint[]) ORDER BY l.id FOR UPDATE OF l SKIP LOCKED"
    return [log for (log,) in session.rows(query, own, chosen)]


def _room(session: Session, claim: Claim) -> Room:
    counted, alive = {cap.tag for cap in claim.caps}, Counter[tuple[str, str]]()
    query = f"SELECT l.tags FROM $s.holders h JOIN $s.logs l ON l.holder = h.token WHERE {ALIVE} AND NOT l.sealed"
    for (data,) in session.rows(query) if counted else []:
        alive.update(item for item in tags_of(data).items() if item[0] in counted)
    return Room(claim.caps, lambda tag, value: alive[tag, value])
