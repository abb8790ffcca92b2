"""Records: the events of a run, read back from a store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Self

from crewbus._util import checked_run_id, scope_id
from crewbus.events import (
    AttemptStarted,
    Envelope,
    Retracted,
    RunEnded,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepStarted,
    UnknownEvent,
    find_event_type,
)
from crewbus.exceptions import RunError, RunNotFoundError, StoreVersionError
from crewbus.records.html import record_html
from crewbus.records.info import RunInfo, describe
from crewbus.records.lineage import Lineage
from crewbus.records.timeline import Timeline
from crewbus.records.tree import RunMembership
from crewbus.stores import Store, StoredEvent

__all__ = ["Record"]


class Landmark:
    """A landmark as recorded. Its event is decoded when it is first used.

    A resume needs no more of most landmarks than their type and position.
    """

    __slots__ = ("_decode", "_event", "_stored", "at", "kind", "parent", "run_id", "seq")

    def __init__(self, stored: StoredEvent, kind: type, decode: Callable[[StoredEvent], Envelope]) -> None:
        self.run_id = stored.run_id
        self.seq = stored.seq
        self.parent = stored.parent
        self.at = stored.at
        self.kind = kind
        """The type of its event."""
        self._stored = stored
        self._decode = decode
        self._event: Any = None

    @property
    def id(self) -> str:
        """As `Envelope.id`."""
        is_level = issubclass(self.kind, AttemptStarted | StepStarted) and not self.event.flat
        return scope_id(self.run_id, self.seq, self.parent, is_level=is_level)

    @property
    def event(self) -> Any:
        """As `Envelope.event`; raises `DecodeError`."""
        if self._event is None:
            self._event = self._decode(self._stored).event
        return self._event


class Record:
    """The envelopes of a recorded run and of the runs nested in it, in order. Each iteration reads the store again.

    The record of a nested run is a part of its root's record. Iterating raises `DecodeError` for an event that its
    type cannot read.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        root_id: str,
        decode: Callable[[StoredEvent], Envelope],
        shared: int | None = None,
    ) -> None:
        self.run_id = run_id
        self.root_id = root_id
        self._store = store
        self._decode = decode
        self._shared = shared
        """As `Lineage.shared`; None: the store is asked."""

    @classmethod
    def find(cls, store: Store, run_id: str, decode: Callable[[StoredEvent], Envelope]) -> Self:
        """Return the record of a run, nested or not; raises `RunNotFoundError` if the store has none."""
        root = store.root_of(checked_run_id(run_id))
        if root is None:
            raise RunNotFoundError(f"run {run_id} is not recorded in {store!r}: arm recording before it starts")
        return cls(store, run_id, root, decode)

    def __repr__(self) -> str:
        return f"<Record of run {self.run_id}>"

    def __iter__(self) -> Iterator[Envelope]:
        membership = RunMembership(self.run_id, self.root_id)
        for envelope in self.read():
            event = envelope.event
            is_start = type(event) is RunStarted
            if membership.includes(envelope, starts_run=is_start, parent_run=event.parent_run if is_start else None):
                yield envelope

    def read(self, after: int = -1) -> Iterator[Envelope]:
        """Iterate over the envelopes of the whole root run numbered above ``after``."""
        return self._decoded(self._store.read(self.root_id, after))

    def landmarks(self, after: int = -1) -> Iterator[Landmark]:
        """Iterate over the landmarks among them: see `crewbus.stores.LANDMARKS`.

        Raises `StoreVersionError` for one that a newer release wrote: a resume must not ignore it.
        """
        decode = self.decoded if self._lineage else self._decode
        kinds: dict[tuple[str, int], type] = {}
        for stored in self._own(self._store.landmarks(self.root_id, after)):
            named = stored.name, stored.version
            kind = kinds.get(named)
            if kind is None:
                kind = kinds[named] = _kind_of(stored)
            yield Landmark(stored, kind, decode)

    def marks(self) -> Iterator[Envelope]:
        """Iterate over the checkpoints, resumes and ends in the whole root run, the last first.

        Those that a fork shares have the ids of the log that they were written to.
        """
        return map(self._decode, self._store.marks(self.root_id))

    def end(self, run_id: str | None = None) -> Envelope | None:
        """Return the end of the root run, or of a run in it; None if it has not ended, or was resumed since.

        A run that is suspended has not ended.
        """
        if run_id in (None, self.root_id):
            stored = self._store.summary(self.root_id).end
            end = None if stored is None else self._decode(stored)
            return None if end is None or isinstance(end.event, RunSuspended) else end
        for mark in self.marks():
            if isinstance(mark.event, RunResumed) or mark.seq <= self._lineage.shared:  # a shared end is the parent's
                return None
            if isinstance(mark.event, RunEnded) and mark.run_id == run_id:
                return mark
        return None

    def outcome(self) -> Envelope | None:
        """Return the end of this record's run; None if it goes on.

        Unlike `end`, this counts the end of a nested run after which its root was resumed: the resumed run repeats it.
        """
        if self.run_id == self.root_id:
            return self.end()
        counts_upto = sys.maxsize
        for mark in self.marks():
            if isinstance(mark.event, RunResumed) and mark.event.checkpoint is not None:
                counts_upto = min(counts_upto, mark.event.at)
            if mark.seq <= self._lineage.shared:
                return None
            if isinstance(mark.event, RunEnded) and mark.run_id == self.run_id and mark.seq <= counts_upto:
                goes_on = any(one.run_id == self.run_id for one in self.stored(mark.seq))
                return None if goes_on else mark
        return None

    def at(self, seq: int) -> Envelope:
        """Return the envelope of that number of the whole root run; raises `RunNotFoundError` if there is none."""
        return next(self._decoded([self._store.event(self.root_id, seq)]))

    def stored(self, after: int = -1) -> Iterator[StoredEvent]:
        """Iterate over the encoded events of the whole root run; a fork has those that it shares under its own ids."""
        return self._own(self._store.read(self.root_id, after))

    def decoded(self, stored: StoredEvent) -> Envelope:
        """Decode one of them."""
        envelope = self._decode(stored)
        lineage, event, seq = self._lineage, envelope.event, stored.seq
        if lineage and isinstance(event, RunStarted) and event.parent_run is not None:
            around = lineage.run_id(event.parent_run, seq)
            envelope.event = RunStarted(event.name, event.tags, around, event.key)
        elif lineage and isinstance(event, Retracted):
            parents = tuple(lineage.envelope_id(parent, seq) for parent in event.parents)
            envelope.event = Retracted(event.since, event.reason, parents)
        return envelope

    def _decoded(self, events: Iterable[StoredEvent]) -> Iterator[Envelope]:
        return map(self.decoded, self._own(events))

    @cached_property
    def _lineage(self) -> Lineage:
        return Lineage(self._store, self.root_id, self._shared)

    def _own(self, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
        return map(self._lineage.own, events) if self._lineage else iter(events)

    def timeline(self) -> Timeline:
        """Read the scopes of the whole root run: their states, times and text."""
        return Timeline(self._store.landmarks(self.root_id), self.stored(), self._decode)

    def _repr_html_(self) -> str:
        return record_html(self, self._info())

    def _info(self) -> RunInfo:
        return describe(self._store.summary(self.root_id), self._decode)

    def roots(self) -> list[Envelope]:
        """Return the envelopes whose parent is not in this record: the start of its run."""
        seen: set[str] = set()
        found = []
        for envelope in self:
            if envelope.parent not in seen:
                found.append(envelope)
            seen.add(envelope.id)
        return found

    def children(self, parent: Envelope | str) -> list[Envelope]:
        """Return the envelopes directly below ``parent``, an envelope or its id."""
        parent_id = _id(parent)
        return [envelope for envelope in self if envelope.parent == parent_id]

    def descendants(self, ancestor: Envelope | str) -> list[Envelope]:
        """Return the envelopes at any depth below ``ancestor``, an envelope or its id."""
        scopes = {_id(ancestor)}
        found = []
        for envelope in self:
            if envelope.parent in scopes:
                scopes.add(envelope.id)
                found.append(envelope)
        return found


def _kind_of(stored: StoredEvent) -> type:
    registered = find_event_type(stored.name)
    if registered is not None and registered.version < stored.version:
        raise StoreVersionError(
            f"event {stored.seq} of run {stored.run_id} is {stored.name} version {stored.version}, by a newer "
            f"release; this one reads version {registered.version}: upgrade it"
        )
    return UnknownEvent if registered is None else registered.cls


def require_root(store: Store, run_id: str) -> None:
    """Raise `RunNotFoundError` if a run is not recorded, and `RunError` if it is nested in another."""
    root = store.root_of(checked_run_id(run_id))
    if root is None:
        raise RunNotFoundError(f"run {run_id} is not recorded in {store!r}")
    if root != run_id:
        raise RunError(f"run {run_id} is nested in run {root}: name that one instead")


def _id(envelope: Envelope | str) -> str:
    return envelope if isinstance(envelope, str) else envelope.id
