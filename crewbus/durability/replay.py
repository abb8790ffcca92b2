"""Replaying: what of its record a resumed run has still to repeat."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakKeyDictionary

import attrs

from crewbus.events import Retracted
from crewbus.exceptions import ReplayMismatch
from crewbus.records import Progress, RecordedCall, RecordedScope, is_generated
from crewbus.scopes import Attempt, Call, Run, Scope, nearest

if TYPE_CHECKING:
    from crewbus.durability.step_scope import Step
    from crewbus.events import StepStarted


K = TypeVar("K")
S = TypeVar("S", bound=RecordedCall)

Emissions = Callable[[int, int], dict[str, list[int]]]
"""The numbers of what code emitted after one number, up to another, by what it was emitted in."""


@attrs.define(eq=False)
class Part:
    """What a run or step that goes on has still to repeat directly in it."""

    place: RecordedScope
    boundary: int
    turn: int
    """Where the last of the steps began that it called inline: until that has returned, all in it is repeated."""
    pending: dict[str, None]
    """The identities of those steps."""
    calls: dict[tuple[str, ...], deque[RecordedCall]]
    runs: dict[tuple[str, str], deque[RecordedScope]]
    attempts: deque[str]
    tail: int | None = None
    """How many emissions are repeated after that; None: not yet counted."""

    @classmethod
    def of(cls, place: RecordedScope, progress: Progress) -> Part:
        """All that there is."""
        boundary = place.boundary
        pending = dict.fromkeys(place.inline_steps(progress.steps))
        turn = max((place.finished[identity].start for identity in pending), default=place.start)
        calls = _grouped((span.path, span) for span in place.calls if span.is_replayed(boundary))
        inner_runs = (inner for inner in place.children if inner.step is None and _goes_on(inner, boundary, progress))
        runs = _grouped((_run_key(inner.name, inner.run_id), inner) for inner in inner_runs)
        return cls(place, boundary, turn, pending, calls, runs, deque(place.ids[1:]))

    def is_pending(self) -> bool:
        """Whether a step that was called inline is still to be returned."""
        while self.pending:
            first = next(iter(self.pending))
            if first in self.place.finished:
                return True
            del self.pending[first]
        return False

    def claim(self, recorded: deque[S] | None) -> S | None:
        """The next of these that is still repeated."""
        if recorded and not self.is_pending():
            while recorded and recorded[0].end is not None and recorded[0].start < self.turn:
                recorded.popleft()
        return recorded.popleft() if recorded else None

    def emitted_in(self) -> frozenset[str]:
        """The parents of what was emitted directly in it, calls that were left open and not made again among them."""
        spans: list[RecordedCall] = []
        for span in self.place.calls:
            if span.is_replayed(self.boundary):  # an open one of its name before it was made again as this
                spans = [earlier for earlier in spans if earlier.path != span.path]
            else:
                spans.append(span)
        return frozenset((*self.place.ids, *(one for span in spans for one in span.ids)))


def _goes_on(inner: RecordedScope, boundary: int, progress: Progress) -> bool:
    return inner in progress.reopened or inner.is_replayed(boundary)


def _grouped(spans: Iterable[tuple[K, S]]) -> dict[K, deque[S]]:
    found: dict[K, deque[S]] = {}
    for key, span in spans:
        found.setdefault(key, deque()).append(span)
    return found


def _run_key(name: str, run_id: str) -> tuple[str, str]:
    """By what a nested run is found again: its name, and its id where somebody chose that."""
    return name, "" if is_generated(run_id) else run_id


def _path_of(call: Call) -> tuple[str, ...]:
    """The name of a call, behind those of the calls around it in the same place."""
    path, place = [call.name], call.step_parent
    around = nearest(call.bus, call.outer)
    while around is not None and around is not place and around.step_parent is place:
        if isinstance(around, Call):
            path.append(around.name)
        around = around.of if isinstance(around, Attempt) else nearest(call.bus, around.outer)
    return tuple(reversed(path))


class Replay:
    """Tells what is repeated from what is new. Used under the lock of the run's tree."""

    def __init__(self, progress: Progress, run: Run, emissions: Emissions) -> None:
        self.progress = progress
        self._emissions = emissions
        self._emitted: dict[str, list[int]] | None = None
        self._waiting: Final = {place: Part.of(place, progress) for place in progress.reopened}
        self._parts: Final[WeakKeyDictionary[Scope, Part]] = WeakKeyDictionary()
        self._repeated: Final[WeakKeyDictionary[Scope, None]] = WeakKeyDictionary()
        assert progress.root is not None
        self._parts[run] = self._waiting.pop(progress.root)

    def repeats(self, scope: Scope) -> bool:
        """Whether the next emission in ``scope`` is one that the record has; it is counted."""
        part = self._part_around(scope)
        if part is None:
            return self.is_repeated(scope)
        if part.is_pending():
            return True
        if part.tail is None:
            part.tail = self._count(part)
        if part.tail > 0:
            part.tail -= 1
            return True
        return False

    def _count(self, part: Part) -> int:
        """How many emissions directly in a part are recorded after its turn, up to its boundary."""
        if self._emitted is None:  # in one go for all parts, since reading takes time
            parts = (*self._waiting.values(), *self._parts.values())
            first, last = min(one.turn for one in parts), max(one.boundary for one in parts)
            self._emitted = self._emissions(first, last)
        numbers = (self._emitted.get(parent, ()) for parent in part.emitted_in())
        return sum(bisect_right(found, part.boundary) - bisect_right(found, part.turn) for found in numbers)

    def _part_around(self, scope: Scope) -> Part | None:
        if self.is_repeated(scope):
            return None
        place = scope.step_parent
        return self._parts.get(place) if place is not None else None

    def is_repeated(self, scope: Scope | None) -> bool:
        """Whether all of ``scope`` is in the record: a call or run that ended, or what is in one."""
        while scope is not None:
            if scope in self._repeated:
                return True
            scope = scope.of if isinstance(scope, Attempt) and scope.step_parent is not scope else None
        return False

    def is_pending(self, scope: Scope) -> bool:
        """Whether ``scope`` has still to return a recorded step that it called inline."""
        part = self._part_around(scope)
        return self.is_repeated(scope) if part is None else part.is_pending()

    # What starts

    def claim_call(self, call: Call) -> int | None:
        """Have a call that starts be repeated; returns its number in the record, -1 where that is not known."""
        around = call.step_parent
        if self.is_repeated(around):
            self._repeated[call] = None
            return -1
        part = self._parts.get(around) if around is not None else None
        span = part.claim(part.calls.get(_path_of(call))) if part is not None else None
        if span is None:
            return None
        self._repeated[call] = None
        return span.start

    def claim_attempt(self, attempt: Attempt) -> int | None:
        """Have an attempt that starts go on with a recorded one; returns its number in the record."""
        part = self._parts.get(attempt.of)
        return int(part.attempts.popleft().rpartition(":")[2]) if part is not None and part.attempts else None

    def claim_run(self, run: Run) -> RecordedScope | None:
        """Have a nested run that starts be repeated, or go on with one that was left open; returns that."""
        around = run.around
        if self.is_repeated(around):
            self._repeated[run] = None
            return None
        part = self._parts.get(around) if around is not None else None
        key = _run_key(run.name or "", run.id)
        place = part.claim(part.runs.get(key)) if part is not None else None
        if place is None:
            return None
        if place in self._waiting:
            self._parts[run] = self._waiting.pop(place)
        else:
            self._repeated[run] = None
        return place

    def ended(self, scope: Scope) -> None:
        """Have ``scope`` be over."""
        self._repeated.pop(scope, None)
        self._parts.pop(scope, None)

    # Steps

    def find(self, identity: str) -> int | None:
        """The number of the event that holds a step's result, or None."""
        return self.progress.results.get(identity)

    def returned(self, identity: str) -> RecordedScope:
        """Have a recorded step be returned: one less to wait for; returns what the record has of it."""
        place = self.progress.steps[identity]
        if place.parent is not None:
            place.parent.forget(identity)
        return place

    def retract(self, since: int, parents: tuple[str, ...]) -> None:
        """Have what the record holds of this be made anew: it was taken back."""
        self.progress.retract(Retracted(since, "", parents))

    def refuse_divergence(self, step: Step) -> None:
        """Raise `ReplayMismatch` if a step that the record does not know stands where another one is."""
        part = self._parts.get(step.around) if step.around is not None else None
        if part is None or not step.event.inline or step.event.identity in self.progress.steps or not part.is_pending():
            return
        expected = self.progress.steps[next(iter(part.pending))].step
        assert expected is not None
        raise mismatch(expected, wording(step.event), part.place)

    def enter(self, step: Step) -> None:
        """Have a step that was left open, or failed, go on with what is recorded in it."""
        recorded = self.progress.steps.get(step.event.identity)
        if recorded is not None and recorded in self._waiting:
            self._parts[step] = self._waiting.pop(recorded)
            step.recorded = recorded

    def succeeded(self, step: Step) -> None:
        """Have a step have returned that is recorded as failed: what the run had done instead is not insisted upon."""
        failed = self.progress.failures.get(step.event.identity)
        recorded = self.progress.steps.get(step.event.identity)
        if failed is not None and recorded is not None and recorded.parent is not None:
            recorded.parent.forget_between(failed, None, step.event.identity)

    def refuse_rest(self, scope: Run | Step) -> None:
        """Raise `ReplayMismatch` if ``scope`` ends well while recorded steps in it were not asked for."""
        part = self._parts.get(scope)
        if part is None or not part.place.finished:
            return
        expected = self.progress.steps[next(iter(part.place.finished))].step
        assert expected is not None
        raise mismatch(expected, "its end", part.place)


def mismatch(expected: StepStarted, found: str, place: RecordedScope) -> ReplayMismatch:
    """The error that says where a resumed run has left its record."""
    scope = place.describe()
    return ReplayMismatch(
        f"{scope} has left its record: expected {wording(expected)}, found {found}; resume it with the code that "
        "recorded it, or fork it from a checkpoint before this",
        expected=wording(expected),
        found=found,
        scope=scope,
    )


def wording(step: StepStarted) -> str:
    """A step in words."""
    again = f" number {step.ordinal + 1}" if step.ordinal else ""
    return f"step {step.name!r} with key {step.key!r}{again}" if step.key else f"step {step.name!r}{again}"
