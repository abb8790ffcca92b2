"""Recorded events as lines of text."""

from __future__ import annotations

import json
from typing import Any, Final

from crewbus._util import format_time, one_line
from crewbus.cli.terminal import OutputStream
from crewbus.cli.text import columns, shorten
from crewbus.events import CheckpointSaved, event_type_of
from crewbus.records import OPENERS, RecordTree
from crewbus.stores import StoredEvent

_MAX_PATH: Final = 48
_MIN_FIELDS: Final = 20
_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})
_OPENERS: Final = {event_type_of(cls).name: cls for cls in OPENERS if cls is not CheckpointSaved}


class EventLines:
    """Formats the events of a record, each with the names of the scopes around it."""

    def __init__(self, out: OutputStream) -> None:
        self._out = out
        self._tree = RecordTree[str]()

    def format(self, stored: StoredEvent) -> str:
        """One event: number, time, scopes, type, fields."""
        path = self._path(stored)
        number = str(stored.seq) if stored.seq >= 0 else "-"
        start, path = f"{number:>6}  {format_time(stored.at, with_date=False)}", one_line(path)
        name, fields = short_type_name(stored), format_fields(stored.data)
        if self._out.is_terminal:
            fields = shorten(fields, max(_MIN_FIELDS, self._out.width - columns(f"{start}  {path}  {name}  ")))
        start, name = self._out.styled(start, "dim"), self._out.styled(name, "bold")
        return f"{start}  {path}  {name}  {fields}".rstrip() + "\n"

    def _path(self, stored: StoredEvent) -> str:
        """The names of the scopes around the event, outermost first."""
        around = self._tree.find(stored.parent)
        outer = around.value if around is not None and around.value else ""
        opener = _OPENERS.get(stored.name)
        node = self._tree.apply(opener, stored) if opener is not None else None
        data = _decode(stored.data) if node is not None else None
        if node is None or not isinstance(data, dict):
            return outer or "-"
        name = str(data.get("name") or f"{node.kind} {data.get('number', '')}".strip())
        path = f"{outer}/{name}" if outer else name
        node.value = path if len(path) <= _MAX_PATH else f"...{path[3 - _MAX_PATH :]}"
        return node.value


def short_type_name(stored: StoredEvent) -> str:
    """The name of an event's type, without the prefix of crewbus's own types."""
    return one_line(stored.name.removeprefix("crewbus."))


def format_fields(encoded: bytes) -> str:
    """The fields of an encoded event, on one line."""
    data = _decode(encoded)
    if not isinstance(data, dict):
        return one_line(str(data))
    if "text" in data:  # a chunk, or a similar event
        data = {**({"kind": data["kind"]} if data.get("kind", "text") != "text" else {}), "text": data["text"]}
    if data.get("version") == 0:  # of a value that has no registered type
        data = {name: value for name, value in data.items() if name != "version"}
    fields = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in data.items() if value not in _EMPTY]
    return one_line("  ".join(fields))


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return repr(data)
