"""Checkpoints: named positions in a record, with the state of the tracked entities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from crewbus import serialization
from crewbus.events import CheckpointSaved, EntitySaved, Envelope, RunResumed
from crewbus.exceptions import DecodeError, RunNotFoundError
from crewbus.records.record import Landmark, Record

__all__ = ["Checkpoint"]


@attrs.frozen(eq=False)
class Checkpoint:
    """A named position in the record of a run, and the state of its entities at that position."""

    name: str
    seq: int
    """Its number in the record."""
    at: float
    """When it was saved, in seconds since the epoch (UTC)."""
    entities: dict[str, int]
    """By the name of each entity: the number of the event that holds its state."""
    _record: Record = attrs.field(repr=False)
    _read: Callable[[EntitySaved], Any] = attrs.field(repr=False)

    def entity(self, name: str) -> Any:
        """Return an entity in the state that it had; a new object at each call.

        Raises `RunNotFoundError` if no entity of that name was tracked, and `DecodeError`.
        """
        if name not in self.entities:
            there = ", ".join(self.entities) or "none"
            raise RunNotFoundError(f"checkpoint {self.name!r} has no entity {name!r}; it has: {there}")
        last = self._saved(name, self.entities[name])
        saved = [last]
        while (base := saved[-1].base) is not None:
            saved.append(self._saved(name, base))
        data = saved.pop().data
        for change in reversed(saved):
            data = serialization.apply_change(data, change.data)
        return self._read(EntitySaved(last.name, last.type, last.version, data))

    def _saved(self, name: str, seq: int) -> EntitySaved:
        event = self._record.at(seq).event
        if not isinstance(event, EntitySaved) or (event.base is not None and not 0 <= event.base < seq):
            raise DecodeError(f"event {seq} of run {self._record.run_id} is not the state of {name!r}")
        return event


def read_checkpoints(record: Record, read: Callable[[EntitySaved], Any]) -> list[Checkpoint]:
    """Return the checkpoints of a record that a resume or fork can start from, in order."""
    return [
        Checkpoint(one.event.name, one.seq, one.at, dict(one.event.entities), record, read)
        for one in reversed(list(find_checkpoint(record.marks())))
    ]


def find_checkpoint(marks: Iterable[Envelope | Landmark], name: str | None = None) -> Iterator[Envelope | Landmark]:
    """Yield the checkpoints of that name (None: of any), the last first, except those that a resume discarded.

    ``marks``: the checkpoints and resumes of a record, the last first.
    """
    discarded_after = None
    for envelope in marks:
        event = envelope.event
        if discarded_after is not None and envelope.seq > discarded_after:
            continue
        if isinstance(event, RunResumed) and event.checkpoint is not None:
            discarded_after = event.at
        elif isinstance(event, CheckpointSaved) and name in (None, event.name):
            yield envelope
