"""Two runs side by side, from where they diverge first."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

import attrs

from crewbus import Bus, Envelope, StoredEvent
from crewbus_http.page.event_table import EventLine, event_line, fields_of

_FOLLOWING: Final = 20
"""How many events after the divergence are shown of each run."""


@attrs.frozen
class Field:
    """A field of the two events that differ."""

    name: str
    one: Any
    other: Any
    missing: str = ""
    """"one" or "other" if that event has no such field."""

    @property
    def differs(self) -> bool:
        """Whether the two have another value."""
        return bool(self.missing) or bool(self.one != self.other)


@attrs.frozen
class Side:
    """One of the two runs."""

    run_id: str
    event: EventLine | None
    """The first event that differs; None: it has no further one in that scope."""
    following: list[EventLine]
    """That event, and those after it."""


@attrs.frozen
class Comparison:
    """Two runs, and their first difference."""

    one: Side
    other: Side
    scope: list[str]
    """The names around the difference, outermost first; empty if the runs are equal."""
    fields: list[Field]

    @property
    def is_equal(self) -> bool:
        """Whether they do not differ."""
        return not self.scope


def compare(bus: Bus, one: str, other: str) -> Comparison:
    """Compare two recorded runs; raises `RunNotFoundError`."""
    divergence = bus.records.diff(one, other)
    if divergence is None:
        return Comparison(Side(one, None, []), Side(other, None, []), [], [])
    left, right = _stored(bus, divergence.one), _stored(bus, divergence.other)
    where = left or right
    assert where is not None
    sides = (_side(bus, one, left, where.seq), _side(bus, other, right, where.seq))
    return Comparison(*sides, divergence.scope.split(" > "), _fields(left, right))


def _stored(bus: Bus, envelope: Envelope | None) -> StoredEvent | None:
    return bus.recording.encode(envelope) if envelope is not None else None


def _side(bus: Bus, run_id: str, event: StoredEvent | None, near: int) -> Side:
    first = event.seq if event is not None else near
    following = islice(bus.record_of(run_id).stored(first - 1), _FOLLOWING)
    return Side(run_id, event_line(event) if event is not None else None, [*map(event_line, following)])


def _fields(one: StoredEvent | None, other: StoredEvent | None) -> list[Field]:
    left = _as_dict(one)
    right = _as_dict(other)
    if one is not None and other is not None and one.name != other.name:
        left, right = {"event": one.name, **left}, {"event": other.name, **right}
    found = []
    for key in dict.fromkeys([*left, *right]):
        missing = "one" if key not in left else "other" if key not in right else ""
        found.append(Field(key, left.get(key), right.get(key), missing))
    return sorted(found, key=lambda field: not field.differs)


def _as_dict(stored: StoredEvent | None) -> dict[str, Any]:
    fields = fields_of(stored.data) if stored is not None else {}
    return fields if isinstance(fields, dict) else {"value": fields}
