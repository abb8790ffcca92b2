"""Entries: a write to a store, as a line of JSON that says in clear what was asked, by whom, and with what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final, NamedTuple

from crewbus.stores.contract import StoredEvent

__all__ = ["Entry"]

Kinds = Mapping[str, type | tuple[type, ...]]

WRITES: Final[Mapping[str, Kinds]] = {
    "begin": {"root_id": str},
    "append": {"root_id": str, "epoch": int, "event": StoredEvent},
    "finish": {"root_id": str, "epoch": int},
    "acquire": {"root_id": str},
    "release": {"root_id": str, "epoch": int},
    "revoke": {"root_id": str},
    "fork": {"root_id": str, "at": int, "fork_id": str, "events": list},
    "drop": {"root_id": str},
}
"""The methods of a store that an entry may name, and their arguments: whatever else one says is never called."""
FIELDS: Final[Kinds] = {
    "run_id": str,
    "seq": int,
    "parent": (str, NoneType),
    "at": (float, int),
    "source": (str, NoneType),
    "attempt": int,
    "name": str,
    "version": int,
    "data": bytes,
}
_encode: Final = json.JSONEncoder(ensure_ascii=False).encode


class Entry(NamedTuple):
    """A write: who made it, the name of the method, and its arguments by name."""

    by: str
    write: str
    arguments: dict[str, Any]

    def dump(self) -> bytes:
        """One line of JSON, without its end; raises ValueError for what would not come back as it is."""
        _check(WRITES[self.write], self.arguments)
        entry = {"write": self.write, **self.arguments, "by": self.by}
        if "event" in entry:
            entry["event"] = _plain(entry["event"])
        if "events" in entry:
            entry["events"] = [_plain(event) for event in entry["events"]]
        return _encode(entry).encode("utf-8", "surrogatepass")

    @classmethod
    def load(cls, line: bytes) -> Entry:
        """What `dump` made ``line`` of; raises ValueError for anything else."""
        try:
            entry = json.loads(line.decode("utf-8", "surrogatepass"))
            by, write = entry.pop("by"), entry.pop("write")
            if "event" in entry:
                entry["event"] = _stored(entry["event"])
            if "events" in entry:
                entry["events"] = [_stored(event) for event in entry["events"]]
            _check(WRITES[write], entry)
            _check({"by": str}, {"by": by})
        except (AttributeError, LookupError, RecursionError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return cls(by, write, entry)


def _plain(event: StoredEvent) -> dict[str, Any]:
    """An event as JSON has it: its data as text, where some byte is none as a lone surrogate."""
    _check(FIELDS, event._asdict())
    return {**event._asdict(), "data": event.data.decode("utf-8", "surrogateescape")}


def _stored(fields: dict[str, Any]) -> StoredEvent:
    event = StoredEvent(**{**fields, "data": fields["data"].encode("utf-8", "surrogateescape")})
    _check(FIELDS, event._asdict())
    return event


def _check(kinds: Kinds, values: Mapping[str, Any]) -> None:
    if values.keys() != kinds.keys():
        raise ValueError(f"there are {', '.join(values)}, not {', '.join(kinds)}")
    for name, value in values.items():
        if not isinstance(value, kinds[name]):
            raise ValueError(f"{name} is {value!r:.100}")
