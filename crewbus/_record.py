"""Records: what a run emitted, read back from a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from crewbus.abc import Store, StoredEvent
from crewbus.events import Envelope, RunStarted

__all__ = ["Record"]


class Record:
    """The envelopes of a recorded run and of the runs nested in it, in order; read anew at each iteration.

    Of a nested run it is that part of its root's record. Iterating raises `DecodeError` where the bytes are not
    what their event type says.
    """

    def __init__(self, store: Store, run_id: str, root_id: str, decode: Callable[[StoredEvent], Envelope]) -> None:
        self.run_id = run_id
        self.root_id = root_id
        self._store = store
        self._decode = decode

    def __repr__(self) -> str:
        return f"<Record of run {self.run_id}>"

    def __iter__(self) -> Iterator[Envelope]:
        inside = {self.run_id}
        for stored in self._store.read(self.root_id):
            envelope = self._decode(stored)
            event = envelope.event
            if isinstance(event, RunStarted) and event.parent_run in inside and envelope.run_id is not None:
                inside.add(envelope.run_id)
            if envelope.run_id in inside:
                yield envelope

    def roots(self) -> list[Envelope]:
        """The envelopes whose parent is not in this record: the start of its run."""
        seen: set[str] = set()
        found = []
        for envelope in self:
            if envelope.parent not in seen:
                found.append(envelope)
            seen.add(envelope.id)
        return found

    def children(self, parent: Envelope | str) -> list[Envelope]:
        """The envelopes directly under ``parent``, an envelope or its id."""
        wanted = _id(parent)
        return [envelope for envelope in self if envelope.parent == wanted]

    def descendants(self, ancestor: Envelope | str) -> list[Envelope]:
        """The envelopes under ``ancestor``, an envelope or its id, at whatever depth."""
        under = {_id(ancestor)}
        found = []
        for envelope in self:
            if envelope.parent in under:
                under.add(envelope.id)
                found.append(envelope)
        return found


def _id(envelope: Envelope | str) -> str:
    return envelope if isinstance(envelope, str) else envelope.id
