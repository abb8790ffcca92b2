"""Records: what a run emitted, read back from a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from crewbus.abc import Store, StoredEvent
from crewbus.events import Envelope, Retracted, RunEnded, RunResumed, RunStarted

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
        if self.run_id == self.root_id:
            yield from self.read()
            return
        inside = {self.run_id}
        for envelope in self.read():
            event = envelope.event
            if isinstance(event, RunStarted) and event.parent_run in inside and envelope.run_id is not None:
                inside.add(envelope.run_id)
            if envelope.run_id in inside:
                yield envelope

    def read(self, after: int = -1) -> Iterator[Envelope]:
        """The envelopes of the whole root run numbered above ``after``."""
        return self._told(self._store.read(self.root_id, after))

    def landmarks(self, after: int = -1) -> Iterator[Envelope]:
        """Those of them by which a run is resumed: see `crewbus.abc.LANDMARKS`."""
        return self._told(self._store.landmarks(self.root_id, after))

    def marks(self) -> Iterator[Envelope]:
        """The checkpoints, resumes and ends in the whole root run, the last first."""
        return self._told(self._store.marks(self.root_id))

    def end(self) -> Envelope | None:
        """How the root run ended; None where it has not, or goes on since."""
        for mark in self.marks():
            if isinstance(mark.event, RunResumed):
                return None
            if isinstance(mark.event, RunEnded) and mark.run_id == self.root_id:
                return mark
        return None

    def at(self, seq: int) -> Envelope:
        """The envelope of that number of the whole root run; raises `RunNotFoundError` where there is none."""
        return next(self._told([self._store.event(self.root_id, seq)]))

    def _told(self, events: Iterable[StoredEvent]) -> Iterator[Envelope]:
        """What they hold; what a fork shares with the run that it was forked of, as its own."""
        ancestors = self._store.lineage(self.root_id)
        for stored in events:
            yield self._adopted(self._decode(stored), ancestors) if ancestors else self._decode(stored)

    def _adopted(self, envelope: Envelope, ancestors: list[str]) -> Envelope:
        def own(text: str | None) -> str | None:
            head, colon, number = (text or "").rpartition(":")
            return f"{self.root_id}{colon}{number}" if head in ancestors else text

        event = envelope.event
        if isinstance(event, RunStarted) and event.parent_run in ancestors:
            event = RunStarted(event.name, event.tags, self.root_id)
        elif isinstance(event, Retracted):
            event = Retracted(event.since, event.reason, tuple(own(parent) or "" for parent in event.parents))
        run_id = self.root_id if envelope.run_id in ancestors else envelope.run_id
        return attrs.evolve(envelope, event=event, run_id=run_id, parent=own(envelope.parent))

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
