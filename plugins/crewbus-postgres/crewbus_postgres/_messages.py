"""The table ``messages``: the mailboxes of logs."""

from __future__ import annotations

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
    found = [
        Posted(number, channel.decode(), data, None if key is None else key.decode(), at)
        for number, channel, data, key, at in rows
    ]
    if [message.number for message in found] != list(range(max(after + 1, 0), log.messages)):
        raise CorruptRecordError(f"of the {log.messages} messages to run {log.root_id}, some are missing")
    return found
