"""Exports: the record of a run as JSON Lines, to keep, compare, send, or replay in a test."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

import attrs

from crewbus.exceptions import CorruptRecordError, RunNotFoundError, StoreVersionError
from crewbus.records.lineage import Lineage
from crewbus.records.tree import RunMembership
from crewbus.stores import Store, StoredEvent

__all__ = ["Branch", "Export", "read_export", "write_export"]

FORMAT: Final = 1
"""The version of the format, in the first line."""


class Branch:
    """The encoded events of one run and of the runs nested in it.

    Reads the log of the root run. A fork has the events that it shares under its own ids.
    Raises `RunNotFoundError`.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        root = store.root_of(run_id)
        if root is None:
            raise RunNotFoundError(f"run {run_id} is not recorded in this store")
        self.run_id = run_id
        self.root_id = root
        self._store = store
        self._lineage = Lineage(store, root)
        self._membership = RunMembership(run_id, root)
        self._last = -1

    def read(self) -> Iterator[StoredEvent]:
        """Iterate over the events that it has not read yet, in order."""
        for stored in self._store.read(self.root_id, self._last):
            self._last = stored.seq
            own = self._adopt(stored) if self._lineage else stored
            is_start = own.name == "crewbus.RunStarted"
            around = _parent_run(own) if is_start and self.run_id != self.root_id else None
            if self._membership.includes(own, starts_run=is_start, parent_run=around):
                yield own

    def _adopt(self, stored: StoredEvent) -> StoredEvent:
        data, lineage, seq = stored.data, self._lineage, stored.seq
        if stored.name in ("crewbus.RunStarted", "crewbus.Retracted"):
            event = _event_of(stored)
            if isinstance(event, dict):
                if isinstance(event.get("parent_run"), str):
                    event["parent_run"] = lineage.run_id(event["parent_run"], seq)
                if isinstance(event.get("parents"), list):
                    event["parents"] = [lineage.envelope_id(str(parent), seq) for parent in event["parents"]]
                data = _dump(event).encode()
        return lineage.own(stored)._replace(data=data)


def _parent_run(started: StoredEvent) -> str | None:
    event = _event_of(started)
    around = event.get("parent_run") if isinstance(event, dict) else None
    return around if isinstance(around, str) else None


@attrs.frozen
class Export:
    """An export, as `read_export` returns it."""

    run_id: str
    info: Mapping[str, Any]
    """The other fields of the first line."""
    events: list[StoredEvent]
    """In order; events of a nested run keep the numbers of its root's record."""


# Writing


def write_export(out: TextIO, store: Store, run_id: str, info: Mapping[str, Any]) -> int:
    """Write the record of a run, and of the runs nested in it, to ``out``; returns the number of events.

    The first line describes the run: the format's version, its id, ``info``, and the number of lines that follow, one
    event each. Raises `RunNotFoundError`, and `CorruptRecordError` for an event that is not JSON.
    """
    last, count = -1, 0
    for stored in Branch(store, run_id).read():
        last, count = stored.seq, count + 1
    out.write(_dump({"crewbus": FORMAT, "run": run_id, **info, "events": count}) + "\n")
    for stored in Branch(store, run_id).read():
        if stored.seq > last:  # emitted in the meantime
            break
        out.write(_dump(as_json(stored)) + "\n")
    return count


def as_json(stored: StoredEvent) -> dict[str, Any]:
    """Return an event of a record as a JSON object; raises `CorruptRecordError` if it is not JSON."""
    fields = stored._asdict()
    del fields["data"]
    event = _event_of(stored)
    return {**fields, "event": event} if _is_strict(event) else {**fields, "data": stored.data.decode()}


def _is_strict(event: Any) -> bool:
    """Whether every reader of JSON takes it: NaN and infinities are Python's own, and are written as text."""
    try:
        json.dumps(event, allow_nan=False)
    except ValueError:
        return False
    return True


def _event_of(stored: StoredEvent) -> Any:
    try:
        return json.loads(stored.data)
    except (ValueError, RecursionError) as error:
        raise CorruptRecordError(f"event {stored.seq} ({stored.name}) is not JSON: {error}") from None


_dump: Final = json.JSONEncoder(separators=(",", ":")).encode


# Reading


def read_export(path: str | Path) -> Export:
    """Read a file that `write_export` wrote. Nothing in it is executed.

    Raises `CorruptRecordError`, naming file and line, for a file that is not an export or is truncated, and
    `StoreVersionError` for one of a newer release.
    """
    try:
        lines = io.BytesIO(Path(path).read_bytes())
    except OSError as error:
        raise RunNotFoundError(f"{path}: {error.strerror or error}") from None
    head = _parse(next(lines, b""), f"{path}:1")
    if type(head.get("crewbus")) is not int or type(head.get("run")) is not str:
        raise CorruptRecordError(f"{path}:1: not an export: 'crewbus export RUN' writes one")
    if head["crewbus"] > FORMAT:
        raise StoreVersionError(
            f"{path} is an export of version {head['crewbus']}; this release of crewbus reads {FORMAT}: upgrade it"
        )
    events = [_event(_parse(line, f"{path}:{number}"), f"{path}:{number}") for number, line in enumerate(lines, 2)]
    if len(events) != head.get("events"):
        raise CorruptRecordError(
            f"{path} is truncated: it should have {head.get('events')} events, and has {len(events)}"
        )
    return Export(head["run"], {key: value for key, value in head.items() if key not in ("crewbus", "run")}, events)


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorruptRecordError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CorruptRecordError(f"{where}: expected a JSON object, not {type(value).__name__}")
    return value


_FIELDS: Final[Mapping[str, tuple[type, ...]]] = {
    "run_id": (str,),
    "seq": (int,),
    "parent": (str, type(None)),
    "at": (float, int),
    "source": (str, type(None)),
    "attempt": (int,),
    "name": (str,),
    "version": (int,),
}


def _event(fields: dict[str, Any], where: str) -> StoredEvent:
    for name, types in _FIELDS.items():
        if type(fields.get(name, ...)) not in types:
            raise CorruptRecordError(f"{where}: {name!r} is missing or is not of type {types[0].__name__}")
    if "event" in fields:
        data = _dump(fields["event"])
    elif isinstance(fields.get("data"), str) and fields["data"].isascii():
        data = fields["data"]
    else:
        raise CorruptRecordError(f"{where}: 'event' is missing")
    return StoredEvent(**{name: fields[name] for name in _FIELDS}, data=data.encode())
