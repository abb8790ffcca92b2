"""Records: what a run emitted, read back from a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Self

from crewbus.events import (
    Envelope,
    Retracted,
    RunEnded,
    RunResumed,
    RunStarted,
    UnknownEvent,
    find_event_type,
)
from crewbus.exceptions import RunError, RunNotFoundError
from crewbus.records.lineage import Lineage
from crewbus.records.tree import RunMembership
from crewbus.stores import Store, StoredEvent

__all__ = ["Record"]


class Landmark:
    """A landmark as recorded. What its event says beyond its type is not decoded before it is asked for.

    A record of many steps is resumed by what most of them merely are: begun, or finished.
    """

    __slots__ = ("_decode", "_event", "_stored", "kind", "parent", "run_id", "seq")

    def __init__(self, stored: StoredEvent, decode: Callable[[StoredEvent], Envelope]) -> None:
        self.run_id = stored.run_id
        self.seq = stored.seq
        self.parent = stored.parent
        registered = find_event_type(stored.name)
        self.kind: type = UnknownEvent if registered is None or registered.version < stored.version else registered.cls
        """The type of its event."""
        self._stored = stored
        self._decode = decode
        self._event: Any = None

    @property
    def id(self) -> str:
        """As `Envelope.id`."""
        return f"{self.run_id}:{self.seq}"

    @property
    def event(self) -> Any:
        """As `Envelope.event`; raises `DecodeError`."""
        if self._event is None:
            self._event = self._decode(self._stored).event
        return self._event


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

    @classmethod
    def find(cls, store: Store, run_id: str, decode: Callable[[StoredEvent], Envelope]) -> Self:
        """Return the record of a run, nested or not; raises `RunNotFoundError` if the store has none."""
        root = store.root_of(run_id)
        if root is None:
            raise RunNotFoundError(f"run {run_id} is not recorded in {store!r}: arm recording before it starts")
        return cls(store, run_id, root, decode)

    def __repr__(self) -> str:
        return f"<Record of run {self.run_id}>"

    def __iter__(self) -> Iterator[Envelope]:
        membership = RunMembership(self.run_id, self.root_id)
        for envelope in self.read():
            if membership.includes(envelope, starts_run=type(envelope.event) is RunStarted):
                yield envelope

    def read(self, after: int = -1) -> Iterator[Envelope]:
        """The envelopes of the whole root run numbered above ``after``."""
        return self._told(self._store.read(self.root_id, after))

    def landmarks(self, after: int = -1) -> Iterator[Landmark]:
        """Those of them by which a run is resumed: see `crewbus.stores.LANDMARKS`."""
        for stored in self._own(self._store.landmarks(self.root_id, after)):
            yield Landmark(stored, self.decoded)

    def marks(self) -> Iterator[Envelope]:
        """The checkpoints, resumes and ends in the whole root run, the last first."""
        return self._told(self._store.marks(self.root_id))

    def end(self) -> Envelope | None:
        """How the root run ended; None where it has not, or goes on since."""
        for mark in self.marks():
            if isinstance(mark.event, RunResumed):
                return None
            if isinstance(mark.event, RunEnded) and mark.run_id == self.root_id:
                return mark if mark.seq > self._lineage.shared else None  # what a fork shares was the other's end
        return None

    def at(self, seq: int) -> Envelope:
        """The envelope of that number of the whole root run; raises `RunNotFoundError` where there is none."""
        return next(self._told([self._store.event(self.root_id, seq)]))

    def stored(self, after: int = -1) -> Iterator[StoredEvent]:
        """The events of the whole root run as the store has them; of a fork, what it shares as its own."""
        return self._own(self._store.read(self.root_id, after))

    def decoded(self, stored: StoredEvent) -> Envelope:
        """The envelope of one of them."""
        envelope = self._decode(stored)
        lineage, event, seq = self._lineage, envelope.event, stored.seq
        if lineage and isinstance(event, RunStarted) and event.parent_run is not None:
            envelope.event = RunStarted(event.name, event.tags, lineage.run_id(event.parent_run, seq))
        elif lineage and isinstance(event, Retracted):
            parents = tuple(lineage.envelope_id(parent, seq) for parent in event.parents)
            envelope.event = Retracted(event.since, event.reason, parents)
        return envelope

    def _told(self, events: Iterable[StoredEvent]) -> Iterator[Envelope]:
        return map(self.decoded, self._own(events))

    @cached_property
    def _lineage(self) -> Lineage:
        return Lineage(self._store, self.root_id)

    def _own(self, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
        return map(self._lineage.own, events) if self._lineage else iter(events)

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


def require_root(store: Store, run_id: str) -> None:
    """Raise `RunNotFoundError` if a run is not recorded, and `RunError` if it is nested in another."""
    root = store.root_of(run_id)
    if root is None:
        raise RunNotFoundError(f"run {run_id} is not recorded in {store!r}")
    if root != run_id:
        raise RunError(f"run {run_id} is nested in run {root}: name that one instead")


def _id(envelope: Envelope | str) -> str:
    return envelope if isinstance(envelope, str) else envelope.id
