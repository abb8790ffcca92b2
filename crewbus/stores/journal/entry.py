"""Journal entries: a write to a store as a line of JSON, with its method, arguments and writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final, NamedTuple

from crewbus.stores.rows import StoredEvent

__all__ = ["Entry"]

Kinds = Mapping[str, type | tuple[type, ...]]

WRITES: Final[Mapping[str, Kinds]] = {
    "begin": {"root_id": str},
    "append": {"root_id": str, "epoch": int, "event": StoredEvent},
    "finish": {"root_id": str, "epoch": int},
    "acquire": {"root_id": str},
    "release": {"root_id": str, "epoch": int, "until": (float, int, NoneType)},
    "revoke": {"root_id": str},
    "fork": {"root_id": str, "at": int, "fork_id": str, "events": list},
    "drop": {"root_id": str},
    "create": {"root_id": str, "events": list, "until": (float, int, NoneType)},
    "post_at": {"root_id": str, "channel": str, "data": bytes, "key": (str, NoneType), "at": (float, int)},
}
"""The methods of a store that an entry may name, with the types of their arguments. No other method is ever called."""
LATER: Final = {"until": None}
"""Arguments that the entries of earlier releases do not have, with what they mean there."""
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
    """A write: its writer, the name of the method, and the arguments by name."""

    by: str
    write: str
    arguments: dict[str, Any]

    def dump(self) -> bytes:
        """Encode as a line of JSON without its newline; raises ValueError for what would not decode as it is."""
        _check(WRITES[self.write], self.arguments)
        entry = {"write": self.write, **self.arguments, "by": self.by}
        if "event" in entry:
            entry["event"] = _plain(entry["event"])
        if "events" in entry:
            entry["events"] = [_plain(event) for event in entry["events"]]
        if "data" in entry:
            entry["data"] = _text(entry["data"])
        return _encode(entry).encode("utf-8", "surrogatepass")

    @classmethod
    def load(cls, line: bytes) -> Entry:
        """Decode a line that `dump` wrote; raises ValueError for anything else."""
        try:
            entry = json.loads(line.decode("utf-8", "surrogatepass"))
            by, write = entry.pop("by"), entry.pop("write")
            if "event" in entry:
                entry["event"] = _stored(entry["event"])
            if "events" in entry:
                entry["events"] = [_stored(event) for event in entry["events"]]
            if "data" in entry:
                entry["data"] = _bytes(entry["data"])
            kinds = WRITES[write]
            entry |= {name: value for name, value in LATER.items() if name in kinds and name not in entry}
            _check(kinds, entry)
            _check({"by": str}, {"by": by})
        except (AttributeError, LookupError, RecursionError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return cls(by, write, entry)


def _plain(event: StoredEvent) -> dict[str, Any]:
    """An event for JSON."""
    _check(FIELDS, event._asdict())
    return {**event._asdict(), "data": _text(event.data)}


def _stored(fields: dict[str, Any]) -> StoredEvent:
    event = StoredEvent(**{**fields, "data": _bytes(fields["data"])})
    _check(FIELDS, event._asdict())
    return event


def _text(data: bytes) -> str:
    """Bytes for JSON: text, with a lone surrogate for each byte that is not UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _check(kinds: Kinds, values: Mapping[str, Any]) -> None:
    if values.keys() != kinds.keys():
        raise ValueError(f"it has {', '.join(values)} instead of {', '.join(kinds)}")
    for name, value in values.items():
        if not isinstance(value, kinds[name]):
            raise ValueError(f"{name} is {value!r:.100}")
