"""Stories: what the record of a run says of its steps, for whoever resumes it.

docs/durability.md has the rules, and the model that they are checked against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs

from crewbus.events import (
    AttemptStarted,
    CallEnded,
    CallFinished,
    CallStarted,
    Retracted,
    RunEnded,
    RunFinished,
    RunResumed,
    RunStarted,
    StepFailed,
    StepFinished,
    StepStarted,
)
from crewbus.records.record import Landmark
from crewbus.records.retractions import Retractions


class Done(NamedTuple):
    """A step that finished: the numbers of its start and of its end."""

    start: int
    end: int


@attrs.define(eq=False)
class Span:
    """A call as recorded."""

    name: str
    start: int
    ids: list[str]
    """Of itself and of the attempts in it: the parents of what was emitted in it."""
    end: int | None = None
    well: bool = False
    path: tuple[str, ...] = ()
    """Its name, behind those of the calls around it in the same place."""

    def reopen(self, since: int) -> None:
        """Have it not ended, if it did so at this number or later: that was taken back."""
        if self.end is not None and self.end >= since:
            self.end, self.well = None, False

    def is_kept(self, boundary: int) -> bool:
        """Whether it is told again when the run is resumed, rather than made anew."""
        return self.end is not None and self.start < boundary and (self.well or self.end < boundary)


@attrs.define(eq=False)
class Place(Span):
    """A run or step as recorded: what steps, calls and runs stand in."""

    around: Place | None = None
    step: StepStarted | None = None
    run_id: str = ""
    calls: dict[Span, None] = attrs.field(factory=dict)
    places: dict[Place, None] = attrs.field(factory=dict)
    tried: int = -1
    """The number of the start of the last try at a step."""
    done: dict[str, Done] = attrs.field(factory=dict)
    """By identity the steps that finished in it, at whatever depth, in this order; not those inside one of them."""

    @property
    def boundary(self) -> int:
        """The number of the last step that finished in it, or of its start: what came later is made anew."""
        return next(reversed(self.done.values())).end if self.done else self.start

    def reach(self) -> Iterator[Place]:
        """This place and those around it."""
        place: Place | None = self
        while place is not None:
            yield place
            place = place.around

    def describe(self) -> str:
        """In words."""
        return f"{'step' if self.step else 'run'} {self.name!r}" if self.name else f"run {self.run_id}"

    def inline(self, steps: Mapping[str, Place]) -> Iterator[str]:
        """The identities of the steps directly in it that finished, and were called where it was entered."""
        for identity in self.done:
            place = steps[identity]
            if place.around is self and place.step is not None and place.step.inline:
                yield identity

    def forget(self, identity: str) -> None:
        """Insist no more upon a step in it."""
        for place in self.reach():
            place.done.pop(identity, None)

    def forget_since(self, after: int, before: int | None, other_than: str) -> None:
        """Insist no more upon the steps in it that began between these numbers, but for one."""
        since = []
        for identity, done in reversed(self.done.items()):
            if done.end < after:
                break
            if identity != other_than and done.start > after and (before is None or done.start < before):
                since.append(identity)
        for identity in since:
            self.forget(identity)

    def stands(self, boundary: int) -> bool:
        """Whether it is told again as a whole, or its result is recorded, where it is in a place of this boundary."""
        return self.well if self.step is not None else self.is_kept(boundary)

    def is_beyond(self, boundary: int) -> bool:
        """Whether it began behind this boundary of the place around it, and does not go on by itself."""
        return self.start > boundary and (self.step is not None or self.well)

    def beyond(self, *, ended: bool = False) -> Iterator[str]:
        """The parents of what was emitted in it beyond its boundary.

        Places in it that go on have boundaries of their own, unless it has ``ended``: then nothing in it goes on.
        """
        boundary = self.boundary
        yield from self.ids
        for span in self.calls:
            if not span.is_kept(boundary):
                yield from span.ids
        for inner in self.places:
            beyond = inner.start > boundary if ended else inner.is_beyond(boundary)
            if beyond and not inner.stands(boundary):
                yield from inner.parents()

    def parents(self, *, of_all: bool = False) -> Iterator[str]:
        """The parents of what was emitted in it; of what the steps did that finished in it, only with ``of_all``."""
        yield from self.ids
        for span in self.calls:
            yield from span.ids
        for inner in self.places:
            if of_all or inner.step is None or not inner.well:
                yield from inner.parents(of_all=of_all)


class Progress:
    """What a record says, landmark after landmark. What was taken back is not done, and what is done stays."""

    def __init__(self) -> None:
        self.root: Place | None = None
        self.results: dict[str, int] = {}
        """By the identity of each step that is done: the number of the event that holds its result."""
        self.steps: dict[str, Place] = {}
        """By identity: the last try at each step."""
        self.failures: dict[str, int] = {}
        """By identity: where a step failed first."""
        self.going_on: list[Place] = []
        """The places that go on when the run is resumed."""
        self.retractions = Retractions()
        self._owners: dict[str, tuple[Place, Span]] = {}
        """By the id of a landmark that opened something: the place it belongs to, and the call there, or the place."""
        self._tellers: Final[dict[type, Callable[[Landmark], None]]] = {
            RunStarted: self._run_started,
            StepStarted: self._step_started,
            StepFinished: self._step_finished,
            StepFailed: self._step_failed,
            CallStarted: self._call_started,
            AttemptStarted: self._attempt_started,
            Retracted: self._retracted,
            RunResumed: self._resumed,
        }

    def tell(self, landmark: Landmark) -> None:
        """Go on with the next landmark."""
        teller = self._tellers.get(landmark.kind)
        if teller is not None:
            teller(landmark)
        elif issubclass(landmark.kind, CallEnded | RunEnded):
            self._ended(landmark)

    def _owner(self, landmark: Landmark) -> tuple[Place | None, Span | None]:
        return self._owners.get(landmark.parent or "", (self.root, self.root))

    def _open(self, landmark: Landmark, name: str, step: StepStarted | None) -> Place:
        around, _ = self._owner(landmark)
        place = Place(name, landmark.seq, [landmark.id], around=around, step=step, run_id=landmark.run_id or "")
        self._owners[landmark.id] = place, place
        if around is not None:
            around.places[place] = None
        return place

    def _run_started(self, landmark: Landmark) -> None:
        place = self._open(landmark, landmark.event.name or "", None)
        if landmark.parent is None:  # not the first of a part of a record, which may be anybody's
            self.root = place

    def _ended(self, landmark: Landmark) -> None:
        _, span = self._owner(landmark)
        if span is not None and landmark.parent == span.ids[0]:
            span.end, span.well = landmark.seq, issubclass(landmark.kind, CallFinished | RunFinished)

    def _step_started(self, landmark: Landmark) -> None:
        event: StepStarted = landmark.event
        place = self.steps.get(event.identity)
        if place is not None and place.around is not None and place in place.around.places:
            place.ids.append(landmark.id)  # it goes on, with what it had done
            self._owners[landmark.id] = place, place
        else:
            place = self.steps[event.identity] = self._open(landmark, event.name, event)
        place.tried = landmark.seq

    def _step_finished(self, landmark: Landmark) -> None:
        place, _ = self._owner(landmark)
        if place is None or place.step is None or place.around is None:
            return
        identity = place.step.identity
        edited = identity in self.results
        self.results[identity] = landmark.seq
        place.end, place.well = landmark.seq, True
        if edited:
            return
        for inner in list(place.done):  # it returns for all that it did
            place.forget(inner)
        for around in place.around.reach():
            around.done[identity] = Done(place.start, landmark.seq)
        if identity in self.failures:
            place.around.forget_since(self.failures[identity], place.tried, identity)

    def _step_failed(self, landmark: Landmark) -> None:
        place, _ = self._owner(landmark)
        if place is not None and place.step is not None:
            place.end, place.well = landmark.seq, False
            self.failures.setdefault(place.step.identity, landmark.seq)

    def _call_started(self, landmark: Landmark) -> None:
        place, around = self._owner(landmark)
        if place is not None:
            path = (*around.path, landmark.event.name) if around is not None else ()
            span = Span(landmark.event.name, landmark.seq, [landmark.id], path=path)
            place.calls[span] = None
            self._owners[landmark.id] = place, span

    def _attempt_started(self, landmark: Landmark) -> None:
        place, span = self._owner(landmark)
        if place is not None and span is not None:
            span.ids.append(landmark.id)
            self._owners[landmark.id] = place, span

    def _retracted(self, landmark: Landmark) -> None:
        self.retractions.add(landmark.event, landmark.seq)
        self.void(landmark.event)

    def void(self, event: Retracted) -> None:
        """Let go of what began in the places and was taken back: it is not done."""
        if not event.parents and self.root is not None:
            self._void_since(self.root, event.since)
        for parent in event.parents:
            place, span = self._owners.get(parent, (None, None))
            if place is None or span is None or parent != span.ids[0]:
                continue
            if span.start < event.since:
                span.reopen(event.since)
            elif isinstance(span, Place):
                self._let_go(span)
            else:
                place.calls.pop(span, None)

    def _void_since(self, place: Place, since: int) -> None:
        place.calls = {span: None for span in place.calls if span.start < since}
        for inner in list(place.places):
            if inner.start >= since:
                self._let_go(inner)
            elif inner.end is None or inner.end >= since:
                self._void_since(inner, since)

    def _let_go(self, place: Place) -> None:
        """Forget a place, and what is done in it."""
        around = place.around
        if around is None or place not in around.places:
            return
        for inner in list(place.places):
            self._let_go(inner)
        del around.places[place]
        if place.step is not None:
            self.results.pop(place.step.identity, None)
            self.failures.pop(place.step.identity, None)
            around.forget(place.step.identity)

    def _resumed(self, landmark: Landmark) -> None:  # noqa: ARG002 - as the other tellers
        if self.root is not None:
            self._reopen(self.root)

    def _reopen(self, place: Place) -> None:
        """Have what goes on when the run is resumed be open again."""
        boundary = place.boundary
        place.end = None
        for inner in place.places:
            if not inner.well and (inner.step is not None or not inner.is_kept(boundary)):
                self._reopen(inner)

    # The end

    def settle(self, last: int) -> list[Retraction]:
        """Be resumed after number ``last``; returns what is taken back."""
        assert self.root is not None
        taken: list[Retraction] = []
        self._settle(self.root, last, taken)
        return taken

    def _settle(self, place: Place, last: int, taken: list[Retraction]) -> None:
        boundary = place.boundary
        place.end = None
        self.going_on.append(place)
        beyond = tuple(place.beyond())
        for inner in place.places:
            if inner.stands(boundary):
                self._find_failed(inner)
            elif inner.is_beyond(boundary):
                continue  # it is among what the place around it takes back
            elif inner.step is not None and not inner.done:
                taken.append(Retraction(inner.start, tuple(inner.parents()), f"{inner.describe()} is made anew"))
            else:
                self._settle(inner, last, taken)
        if last > boundary:
            taken.append(Retraction(boundary + 1, beyond, f"{place.describe()} goes on from before this"))

    def _find_failed(self, place: Place) -> None:
        """Have the steps that failed in what is repeated go on: they are tried again."""
        if place.step is None:
            for inner in place.places:
                if inner.step is not None and not inner.well:
                    self.going_on.append(inner)
                self._find_failed(inner)


class Retraction(NamedTuple):
    """What is taken back when a run is resumed: what belongs to ``parents`` and is numbered ``since`` or later."""

    since: int
    parents: tuple[str, ...]
    reason: str


class Valid(NamedTuple):
    """The landmarks of a record that count."""

    landmarks: list[Landmark]
    untold: int | None
    """From which number on consumers were not told that what they saw was let go; None: they were."""


def valid(landmarks: Iterable[Landmark]) -> Valid:
    """Those of a record that no resume from a checkpoint before them has let go of."""
    kept: list[Landmark] = []
    untold: int | None = None
    for landmark in landmarks:
        if landmark.kind is RunResumed and landmark.event.checkpoint is not None:
            at = landmark.event.at
            # What was taken back stays so, as consumers were told.
            kept = [earlier for earlier in kept if earlier.seq <= at or earlier.kind is Retracted]
            untold = at + 1
        elif landmark.kind is Retracted and untold is not None and _tells(landmark.event, untold):
            untold = None
        kept.append(landmark)
    return Valid(kept, untold)


def _tells(event: Retracted, untold: int) -> bool:
    return not event.parents and event.since <= untold


def read_progress(landmarks: Iterable[Landmark]) -> Progress:
    """The story that these landmarks tell."""
    story = Progress()
    for landmark in landmarks:
        story.tell(landmark)
    return story
