"""The recorded emissions of user code that a resumed run may repeat, found by place and content."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

from crewbus._util import is_within
from crewbus.events import Retracted
from crewbus.records import Path, Progress, RecordedAttempt, RecordedHome, Retractions, Span
from crewbus.stores import StoredEvent

Content = tuple[str, bytes]
"""The name of an event's type, and its JSON."""


class Where(NamedTuple):
    """Where something was emitted."""

    home: RecordedHome
    path: Path
    """The names of the calls around it in there."""
    in_attempt: bool
    """Whether it belongs to an attempt directly."""


class Inside(NamedTuple):
    """Where something may have been emitted again: in attempts, of which these are the ids."""

    where: Where
    ids: Collection[str]
    directly: bool


_BATCH: Final = 256
"""How many stored events are read at once."""


class Emission(NamedTuple):
    """A recorded emission."""

    seq: int
    parent: str
    retracted_at: int | None
    """The number of the retraction, if a failed attempt took it back."""


class Rejected(NamedTuple):
    """What was emitted in a step and a failed attempt took back."""

    content: Content
    event: Any
    retracted_at: int


class RecordedEmissions:
    """Those up to number ``last``; read as far as they are asked for, since a resumed run repeats them in order.

    ``content_of`` returns the content of a stored event that user code emitted, and None for any other.
    """

    def __init__(
        self,
        progress: Progress,
        last: int,
        read_after: Callable[[int], Iterable[StoredEvent]],
        content_of: Callable[[StoredEvent], Content | None],
        event_of: Callable[[StoredEvent], Any],
    ) -> None:
        self._progress = progress
        self._last = last
        self._read_after = read_after
        self._content_of = content_of
        self._event_of = event_of
        self._taken_back = Retractions()
        """What was taken back since the run was resumed."""
        self._read = -1
        self._waiting: dict[Where, dict[Content, deque[Emission]]] = {}
        self._count = 0
        """How many are waiting."""

    @property
    def is_exhausted(self) -> bool:
        """Whether all of them were repeated."""
        return self._read >= self._last and not self._count

    def are_waiting_in(self, home: RecordedHome) -> bool:
        """Whether anything that counts and is recorded in ``home`` directly was not repeated."""
        while self._read_on():
            pass
        there = (by_content for where, by_content in self._waiting.items() if where.home is home)
        return any(one.retracted_at is None for by in there for waiting in by.values() for one in waiting)

    def retract(self, event: Retracted) -> None:
        """Leave out what is taken back now: what is emitted later does not repeat it."""
        if self._read < self._last:  # what is read later is left out as it is read
            self._taken_back.add(event, sys.maxsize)
        for there in self._waiting.values():
            for waiting in there.values():
                for emission in [one for one in waiting if one.retracted_at is None]:
                    if event.covers(emission.seq, emission.parent):
                        waiting.remove(emission)
                        self._count -= 1

    def match(self, where: Where, content: Content, *, rejected: bool) -> Emission | None:
        """Find the first emission with this content there, and leave it out from now on.

        ``rejected``: it may be one that a failed attempt took back.
        """
        while True:
            found = self._find(where, content, rejected)
            if found is not None or not self._read_on():
                return found

    def match_again(self, places: Iterable[Inside], content: Content, retracted_at: int) -> Emission | None:
        """Find what was emitted in one of these places after a retraction, and leave it out from now on."""
        while self._read_on():
            pass
        for where, ids, directly in places:
            for emission in self._waiting.get(where, {}).get(content, ()):
                is_inside = emission.parent in ids if directly else is_within(emission.parent, ids)
                if emission.seq > retracted_at and is_inside:
                    self._leave_out(where, content, emission)
                    return emission
        return None

    def _leave_out(self, where: Where, content: Content, emission: Emission) -> None:
        self._waiting[where][content].remove(emission)
        self._count -= 1

    def _find(self, where: Where, content: Content, rejected: bool) -> Emission | None:
        for emission in self._waiting.get(where, {}).get(content, ()):
            if rejected or emission.retracted_at is None:
                self._leave_out(where, content, emission)
                return emission
        return None

    def _read_on(self) -> bool:
        """Read some more. Returns whether there was anything."""
        if self._read >= self._last:
            return False
        batch = list(islice(self._read_after(self._read), min(_BATCH, self._last - self._read)))
        for stored in batch:
            if stored.seq <= self._last:
                self._add(stored)
        self._read = batch[-1].seq if batch else self._last
        return True

    def _add(self, stored: StoredEvent) -> None:
        retractions = self._progress.retractions
        retraction = retractions.first(stored.seq, stored.parent)
        if retraction is None:
            is_gone = self._taken_back.cover(stored.seq, stored.parent)
        else:
            is_gone = retractions.void(stored.seq, stored.parent)
        if is_gone:
            return
        place = self._progress.place(stored.parent)
        content = self._content_of(stored) if place is not None else None
        if place is not None and content is not None and stored.parent is not None:
            retracted_at = retraction.at if retraction is not None else None
            emission = Emission(stored.seq, stored.parent, retracted_at)
            where = Where(place.home, place.path, place.attempt is not None)
            there = self._waiting.setdefault(where, {})
            there.setdefault(content, deque()).append(emission)
            self._count += 1

    def are_in(self, attempt: RecordedAttempt) -> bool:
        """Whether anything that counts, or that a failed attempt took back, is recorded in an attempt."""
        for stored in self._read_after(attempt.start):
            if stored.seq > self._last:
                return False
            if is_within(stored.parent, attempt.ids) and not self._is_void(stored) and self._content_of(stored):
                return True
        return False

    def _is_void(self, stored: StoredEvent) -> bool:
        retractions = self._progress.retractions
        is_retracted = retractions.first(stored.seq, stored.parent) is not None
        return is_retracted and retractions.void(stored.seq, stored.parent)

    def rejected_in(self, step: RecordedHome) -> list[Rejected]:
        """What was emitted in a step that has ended and a failed attempt around it took back."""
        parents, found = set(step.emission_parents()), list[Rejected]()
        for stored in self._read_after(step.start):
            if step.end is None or stored.seq > step.end:
                break
            retraction = self._progress.retractions.first(stored.seq, stored.parent)
            if is_within(stored.parent, parents) and retraction is not None and _is_around(retraction, step):
                if step.is_emitted_again(stored.seq):
                    continue
                content = self._content_of(stored)
                found += [Rejected(content, self._event_of(stored), retraction.at)] if content is not None else []
        return found


def _is_around(retraction: Span, step: RecordedHome) -> bool:
    """Whether the attempt that retracted something was around ``step``, not in it."""
    return retraction.began is not None and retraction.began < step.start
