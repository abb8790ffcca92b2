"""The table ``messages``: the mailboxes of logs."""

from __future__ import annotations

from collections.abc import Mapping

from crewbus.exceptions import CorruptRecordError, RecordingError, RunEndedError
from crewbus.stores import Posted
from crewbus_postgres._events import digest
from crewbus_postgres._logs import NOW, LogRow, is_text
from crewbus_postgres._session import Session


def check(root_id: str, channel: str, key: str | None) -> None:
    """Raise `RecordingError` unless the texts of a message can be stored."""
    for text in (channel, key or ""):
        if not is_text(text):
            raise RecordingError(f"run {root_id}: the text {text!r} of a message contains a lone surrogate")


def add(session: Session, log: LogRow, channel: str, data: bytes, key: str | None) -> int:
    """Post a message to a locked log, unless it is there, and return its number; `RunEndedError` if it is sealed."""
    lookup = None if key is None else digest(channel, key)
    if lookup is not None:
        for (number,) in session.rows("SELECT number FROM $s.messages WHERE log = %s AND digest = %s", log.id, lookup):
            return int(number)
    if log.sealed:
        raise RunEndedError(f"run {log.root_id} has ended: it takes no messages any more")
    texts = channel.encode(), bytes(data), None if key is None else key.encode()
    values = (log.id, log.messages, *texts, lookup)
    session.rows(f"INSERT INTO $s.messages VALUES (%s, %s, %s, %s, %s, %s, {NOW})", *values)
    session.rows("UPDATE $s.logs SET messages = messages + 1, due = NULL WHERE id = %s", log.id)
    return log.messages


def load(session: Session, log: LogRow, after: int) -> list[Posted]:
    """The messages of a log with numbers above ``after``; raises `CorruptRecordError` if one is missing."""
    rows = session.rows(
        "SELECT number, channel, data, key, at FROM $s.messages "
        "WHERE log = %s AND number > %s AND number < %s ORDER BY number",
        log.id,
        after,
        log.messages,
    )
    found = [_posted(*row) for row in rows]
    if not _are_all(found, after, log.messages):
        raise CorruptRecordError(f"of the {log.messages} messages to run {log.root_id}, some are missing")
    return found


def load_all(session: Session, after: Mapping[str, int]) -> dict[str, list[Posted]]:
    """The messages of many logs with numbers above those in ``after``; of none of which one is missing."""
    roots = [root for root in after if is_text(root)]
    rows = session.rows(
        "SELECT l.root_id, l.messages, m.number, m.channel, m.data, m.key, m.at "
        "FROM unnest(%b::bytea[], %b::bytea[], %b::bigint[]) AS a(key, root_id, after) "
        "JOIN $s.runs r ON r.key = a.key JOIN $s.logs l ON l.id = r.log AND l.root_id = a.root_id "
        "JOIN $s.messages m ON m.log = l.id AND m.number > a.after AND m.number < l.messages ORDER BY l.id, m.number",
        [digest(root) for root in roots],
        [root.encode() for root in roots],
        [after[root] for root in roots],
    )
    found, counts = dict[str, list[Posted]](), dict[str, int]()
    for root_id, count, *row in rows:
        root = root_id.decode()
        found.setdefault(root, []).append(_posted(*row))
        counts[root] = count
    return {root: messages for root, messages in found.items() if _are_all(messages, after[root], counts[root])}


def _posted(number: int, channel: bytes, data: bytes, key: bytes | None, at: float) -> Posted:
    return Posted(number, channel.decode(), data, None if key is None else key.decode(), at)


def _are_all(found: list[Posted], after: int, count: int) -> bool:
    return [message.number for message in found] == list(range(max(after + 1, 0), count))
