"""The events of a run, a window at a time."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any, Final

import attrs

from crewbus import Record, StoredEvent
from crewbus_http.page.text import one_line

WINDOW: Final = 100
"""How many events a window has."""
_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {}, False)
_DIGESTS: Final = ("identity", "digest", "inline")
"""Fields that say nothing to a person. The event as JSON has them."""


@attrs.frozen
class EventLine:
    """One event, as a row of the table."""

    seq: int
    at: float
    name: str
    """Its type; crewbus's own without their prefix."""
    source: str
    fields: str
    """Its fields on one line."""


@attrs.frozen
class EventWindow:
    """Consecutive events."""

    lines: list[EventLine]
    first: int
    last: int
    """The number of the newest event of the run."""

    @property
    def before(self) -> int | None:
        """Where the window before this one begins; None: there is none."""
        return max(0, self.first - WINDOW) if self.first > 0 else None

    @property
    def after(self) -> int | None:
        """Where the window after this one begins; None: there is none."""
        following = self.first + WINDOW
        return following if following <= self.last else None


def event_window(record: Record, first: int, last: int) -> EventWindow:
    """The events of a record from number ``first`` on; ``last``: that of its newest one."""
    first = max(0, min(first, last))
    found = islice(record.stored(first - 1), WINDOW)
    return EventWindow([event_line(stored) for stored in found if stored.seq <= last], first, last)


def event_line(stored: StoredEvent) -> EventLine:
    """The row of an event."""
    name = one_line(stored.name.removeprefix("crewbus."), 80)
    return EventLine(stored.seq, stored.at, name, one_line(stored.source or "", 80), one_line(_fields(stored.data)))


def fields_of(data: bytes) -> Any:
    """The fields of an encoded event; what it holds as it is if that is not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return {"data": data[:2000].decode("utf-8", "backslashreplace")}


def _fields(data: bytes) -> str:
    if len(data) > 4000:  # JSON is not worth reading for one line
        return data[:700].decode("utf-8", "replace")
    fields = fields_of(data)
    if not isinstance(fields, dict):
        return json.dumps(fields, ensure_ascii=False)
    shown = {key: value for key, value in fields.items() if value not in _EMPTY and key not in _DIGESTS}
    return "  ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in shown.items())
