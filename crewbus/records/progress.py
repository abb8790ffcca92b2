"""The progress of a recorded run: the outcomes of its steps, and what a resume takes back.

docs/durability.md has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from crewbus._util import levels
from crewbus.events import (
    AttemptEnded,
    AttemptStarted,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    CheckpointSaved,
    Retracted,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunForked,
    RunPatched,
    RunResumed,
    RunStarted,
    StepFailed,
    StepFinished,
    StepStarted,
)
from crewbus.records.record import Landmark
from crewbus.records.recorded import Path, Place, RecordedAttempt, RecordedCall, RecordedHome
from crewbus.records.recorded_steps import RecordedSteps
from crewbus.records.retractions import DiscardedRanges, Retractions
from crewbus.records.tree import Node, RecordTree
from crewbus.stores import LANDMARKS, StoredEvent

ReadAfter = Callable[[int], Iterable[StoredEvent]]
"""Reads the stored events above a number, in order."""


class Retraction(NamedTuple):
    """What a resume takes back: what belongs to ``parents`` and is numbered ``since`` or later."""

    since: int
    parents: tuple[str, ...]
    reason: str


class Progress:
    """Built landmark by landmark.

    What an attempt retracts is rejected: it happened, and a resumed run goes through it again, to reject it again.
    What anything else retracts is void: it is not there any more.
    """

    def __init__(self, read_after: ReadAfter) -> None:
        self.root: RecordedHome | None = None
        self.steps = RecordedSteps()
        self.retractions = Retractions()
        self._read_after = read_after
        self._failed: list[tuple[RecordedHome, Landmark]] = []
        """The failed steps of which it is open whether their failure stands, each with its end, in order."""
        self._ever_failed: list[RecordedHome] = []
        """All steps that have failed."""
        self._root_failure: Landmark | None = None
        self._fatal: tuple[str, ...] = ()
        """The steps with whose exception the run that was forked failed later."""
        self._open_steps: set[RecordedHome] = set()
        """Those that have not ended since they were taken up."""
        self._is_changed = False
        """Whether the run was resumed or forked."""
        self._tree: RecordTree[Place] = RecordTree()
        self._appliers: Final[dict[type, Callable[[Landmark, Node[Place] | None], None]]] = {
            RunStarted: self._run_started,
            RunFinished: self._home_ended,
            RunFailed: self._home_ended,
            RunCancelled: self._home_ended,
            RunResumed: self._resumed,
            RunForked: self._forked,
            StepStarted: self._step_started,
            StepFinished: self._home_ended,
            StepFailed: self._home_ended,
            CallStarted: self._call_started,
            CallFinished: self._call_ended,
            CallFailed: self._call_ended,
            CallCancelled: self._call_ended,
            AttemptStarted: self._attempt_started,
            AttemptEnded: self._attempt_ended,
            CheckpointSaved: self._checkpoint_saved,
            RunPatched: self._patched,
            Retracted: self._retracted,
        }

    def apply(self, landmark: Landmark) -> None:
        """Take the next landmark."""
        applier = self._appliers.get(landmark.kind)
        if applier is not None:
            applier(landmark, self._tree.apply(landmark.kind, landmark))

    def place(self, envelope_id: str | None) -> Place | None:
        """Where events with this parent belong; None: not in this record, or it was taken back."""
        node = self._tree.find(envelope_id)
        return node.value if node is not None else None

    def attempts_around(self, parent: str | None) -> list[RecordedAttempt]:
        """The attempts around what belongs to this parent, innermost first."""
        places = map(self.place, levels(parent or ""))
        return [place.attempt for place in places if place is not None and place.attempt is not None]

    def _place_of(self, node: Node[Place] | None) -> Place | None:
        """The place that a node stands for; the root where the record does not have it."""
        if node is not None and node.value is not None:
            return node.value
        return Place(self.root) if self.root is not None else None

    # Starts

    def _open(self, landmark: Landmark, node: Node[Place], *, is_step: bool) -> RecordedHome:
        around = self._place_of(node.parent)
        seq = landmark.seq
        if around is None:
            home = RecordedHome([landmark], seq, is_step)
        else:
            parent = around.home
            home = RecordedHome([landmark], seq, is_step, parent, around.call)
            parent.own.children[home] = None
            self._note_opened(parent, seq)
        node.value = Place(home)
        return home

    @staticmethod
    def _note_opened(home: RecordedHome, seq: int) -> None:
        around: RecordedHome | None = home
        while around is not None:
            around.last_opened = seq
            around = around.parent

    def _run_started(self, landmark: Landmark, node: Node[Place] | None) -> None:
        assert node is not None
        home = self._open(landmark, node, is_step=False)
        if landmark.parent is None:  # a part of a record may begin with the start of a nested run
            self.root = home

    def _step_started(self, landmark: Landmark, node: Node[Place] | None) -> None:
        assert node is not None
        home = self.steps.find(landmark.event.identity) if self._may_be_taken_up(node) else None
        if home is None:
            home = self._open(landmark, node, is_step=True)
            self.steps.add(home)
            self._open_steps.add(home)
            return
        self._open_steps.add(home)
        home.starts.append(landmark)  # it is taken up again, with what it had done
        home.end = home.end_type = None
        home.stands = home.rejected = False
        node.value = Place(home)
        if home.parent is not None:
            self._note_opened(home.parent, landmark.seq)

    def _may_be_taken_up(self, node: Node[Place]) -> bool:
        """Whether a step that starts may have started before: its identity has to be read only then."""
        if self._is_changed:
            return True
        if not self._open_steps:
            return False
        around = self._place_of(node.parent)
        inside = sum(home in self._open_steps for home in around.home.ancestry()) if around is not None else 0
        return len(self._open_steps) > inside

    def _call_started(self, landmark: Landmark, node: Node[Place] | None) -> None:
        assert node is not None
        place = self._place_of(node.parent)
        if place is not None:
            path = (*place.path, landmark.event.name)
            attempt = place.attempt or (place.call.attempt if place.call is not None else None)
            call = RecordedCall(place.home, landmark.seq, landmark.parent, [landmark.id], path, place.call, attempt)
            place.home.own.calls[call] = None
            node.value = Place(place.home, call)
            self._note_opened(place.home, landmark.seq)

    def _attempt_started(self, landmark: Landmark, node: Node[Place] | None) -> None:
        assert node is not None
        place = self._place_of(node.parent)
        if place is not None:
            event: AttemptStarted = landmark.event
            before = self._tree.nodes.get(event.again) if event.again is not None else None
            attempt = before.value.attempt if before is not None and before.value is not None else None
            if attempt is None:
                attempt = RecordedAttempt(event, landmark.seq, landmark.parent, place.path, [], place.attempt)
                place.home.own.attempts.append(attempt)
            elif attempt.retracted_at is not None:
                attempt.went_on_after.add(attempt.retracted_at)
            attempt.ids.append(landmark.id)
            if place.call is None:
                place.home.starts.append(landmark)
            else:
                place.call.ids.append(landmark.id)
            node.value = Place(place.home, place.call, attempt)
            self._note_opened(place.home, landmark.seq)

    def _checkpoint_saved(self, landmark: Landmark, node: Node[Place] | None) -> None:
        place = self._place_of(node.parent if node is not None else None)
        if place is not None and not landmark.event.automatic:
            self._note_opened(place.home, landmark.seq)

    def _patched(self, landmark: Landmark, _: Node[Place] | None) -> None:
        place = self.place(landmark.parent)
        if place is not None:
            place.home.own.patches[landmark.event.name] = landmark.seq
            self._note_opened(place.home, landmark.seq)

    # Ends

    def _home_ended(self, landmark: Landmark, node: Node[Place] | None) -> None:
        place = self._place_of(node)
        if place is None or place.home.is_step != (landmark.kind in (StepFinished, StepFailed)):
            return
        home = place.home
        home.end, home.end_type = landmark.seq, landmark.kind
        self._open_steps.discard(home)
        if landmark.kind is StepFailed:
            home.failed_tries, home.failed_at = 0, -1
            self._failed.append((home, landmark))
            self._ever_failed.append(home)
        if home is self.root:
            self._root_failure = landmark if landmark.kind is RunFailed else None

    def _call_ended(self, landmark: Landmark, node: Node[Place] | None) -> None:
        if node is not None and node.value is not None and node.value.call is not None:
            call = node.value.call
            call.end, call.end_type = landmark.seq, landmark.kind

    def _attempt_ended(self, landmark: Landmark, node: Node[Place] | None) -> None:
        attempt = node.value.attempt if node is not None and node.value is not None else None
        if attempt is not None:
            attempt.end, attempt.outcome = landmark.seq, landmark.event.outcome

    # Failures

    def _resumed(self, landmark: Landmark, _: Node[Place] | None) -> None:
        self._is_changed = True
        self._settle(landmark.seq)
        self._reopen_root()

    def _forked(self, landmark: Landmark, _: Node[Place] | None) -> None:
        self._is_changed = True
        self._fatal = landmark.event.steps

    def _reopen_root(self) -> None:
        if self.root is not None:
            self.root.end = self.root.end_type = None

    def _settle(self, upto: int) -> None:
        """Decide which failures stand, as a resume at number ``upto`` does: the other steps are executed again."""
        failed = [home for home, landmark in self._failed if home.end == landmark.seq]
        for home in failed:
            home.stands = self._continued(home, upto)
        named = {*self._fatal, *(self._root_failure.event.steps if self._root_failure is not None else ())}
        if named:
            fatal = [one for one in self._ever_failed if one.end_type is StepFailed and one.identity in named]
            failed += fatal
            for home in fatal:
                home.stands = False
        for home in failed:
            if not home.stands:
                home.end = home.end_type = None
        self._failed, self._root_failure, self._fatal = [], None, ()

    def _continued(self, failed: RecordedHome, upto: int) -> bool:
        """Whether the code went on after a step failed: something started, ended well, or was emitted around it.

        What a run emits before it fails does not count: it may have reported the failure.
        """
        assert failed.end is not None
        after, around = failed.end, failed.parent
        while around is not None:
            if around.last_opened > after or around.finished:
                return True
            if around.end is None or around.end < after:  # or it was resumed since
                return self._emitted(around, after, upto)
            if around.end_type is RunCancelled and self._emitted(around, after, around.end):
                return True
            after, around = around.end, around.parent
        return False

    def _emitted(self, home: RecordedHome, after: int, upto: int) -> bool:
        """Whether user code emitted anything in ``home`` between these numbers."""
        for stored in self._read_after(after):
            if stored.seq >= upto:
                return False
            place = self.place(stored.parent) if stored.name not in LANDMARKS else None
            if place is not None and place.home.is_within(home):
                return True
        return False

    # Retractions

    def _retracted(self, landmark: Landmark, _: Node[Place] | None) -> None:
        event: Retracted = landmark.event
        node = self._tree.find(landmark.parent)
        kind = node.kind if node is not None and landmark.parent in event.parents else None
        place = self._place_of(node)
        if kind == "step":  # it failed: its text is void, and what ended in it did so
            self.retractions.add(event, landmark.seq)
            return
        if place is not None:
            self._note_opened(place.home, landmark.seq)  # the code went on from what had failed
        if kind == "attempt" and place is not None and place.attempt is not None:
            place.attempt.retracted_at = landmark.seq
            if place.attempt.around is None and not place.attempt.path:
                place.home.failed_tries, place.home.failed_at = place.attempt.event.number, landmark.seq
        attempt = place.attempt if place is not None and kind == "attempt" else None
        self.retract(event, landmark.seq, began=attempt.start if attempt is not None else None)

    def retract(self, event: Retracted, seq: int, *, began: int | None = None) -> None:
        """Take back what ``event`` names; ``began``: where the attempt began that fails."""
        self.retractions.add(event, seq, began=began)
        if not event.parents and self.root is not None:
            self._void_since(self.root, event.since)
        for node in self._tree.retracted(event):
            place = node.value
            if place is None:
                continue
            if began is not None:
                if place.call is None and place.home.start >= event.since:
                    place.home.rejected = True
            elif place.call is not None:
                self._void_call(place.call, event.since)
            elif place.home.start < event.since:
                self._void_attempts(place.home, event.since, ())
            elif not self.retractions.keep(place.home.start, place.home.start_parent, event.since):
                self._remove(place.home)

    def _void_attempts(self, home: RecordedHome, since: int, path: Path) -> None:
        keep = self.retractions.keep
        home.holds.attempts[:] = [
            one
            for one in home.holds.attempts
            if one.start < since or one.path != path or keep(one.start, one.start_parent, since)
        ]

    def _void_call(self, call: RecordedCall, since: int) -> None:
        if call not in call.home.holds.calls:  # it is void already
            return
        keep = self.retractions.keep
        if call.start >= since:
            if not keep(call.start, call.start_parent, since):
                del call.home.holds.calls[call]
        elif call.end is not None and call.end >= since and not keep(call.end, call.ids[0], since):
            call.end = call.end_type = None
        self._void_attempts(call.home, since, call.path)

    def _void_since(self, home: RecordedHome, since: int) -> None:
        inside = home.holds
        for call in [call for call in inside.calls if call.start >= since]:
            del inside.calls[call]
        inside.attempts[:] = [one for one in inside.attempts if one.start < since]
        for child in list(home.holds.children):
            if child.start >= since:
                self._remove(child)
            else:
                self._void_since(child, since)

    def _remove(self, home: RecordedHome) -> None:
        """Forget a run or step, and all that happened in it. That a step failed remains: the code saw it."""
        for child in list(home.holds.children):
            self._remove(child)
        if home.end_type is StepFailed:
            home.holds.calls.clear()
            home.holds.attempts.clear()
            return
        if home.parent is not None:
            home.parent.holds.children.pop(home, None)
        if home.is_step:
            self.steps.remove(home)

    # The end

    def retractions_on_resume(self, last: int) -> list[Retraction]:
        """What a resume after number ``last`` takes back of the steps and calls that were left open."""
        assert self.root is not None
        self._settle(last + 1)
        self._reopen_root()
        retractions: list[Retraction] = []
        self._resume(self.root, last, retractions)
        for since, parents, reason in retractions:
            self.retract(Retracted(since, reason, parents), last + 1)
        return retractions

    def _resume(self, home: RecordedHome, last: int, retractions: list[Retraction]) -> None:
        for call in home.holds.calls:
            if call.end is None:
                boundary, parents = call.boundary, tuple(call.emission_parents())
                if last > boundary:
                    retractions.append(Retraction(boundary + 1, parents, f"call {call.path[-1]!r} was open"))
        for child in home.holds.children:
            if not child.is_step:
                if not child.finished:
                    self._resume(child, last, retractions)
            elif not child.has_outcome:
                self._resume_step(child, last, retractions)

    def _resume_step(self, step: RecordedHome, last: int, retractions: list[Retraction]) -> None:
        boundary, reason = step.boundary, f"{step.describe()} is executed again"
        if boundary > step.start:
            reason = f"{step.describe()} continues from before this"
            self._resume(step, last, retractions)
        parents = tuple(step.emission_parents())
        if not all(self.retractions.cover(boundary + 1, parent) for parent in parents):
            retractions.append(Retraction(boundary + 1, parents, reason))


class Valid(NamedTuple):
    """The landmarks of a record that count."""

    landmarks: list[Landmark]
    unannounced: int | None
    """The first number that a resume discarded unknown to consumers, if it did."""


def valid(landmarks: Iterable[Landmark]) -> Valid:
    """Leave out the landmarks that a resume from an earlier checkpoint discarded."""
    found, discarded = list(landmarks), DiscardedRanges()
    unannounced: int | None = None
    for landmark in found:
        if landmark.kind is RunResumed and landmark.event.checkpoint is not None:
            discarded.add(landmark.event, landmark.seq)
            unannounced = landmark.event.at + 1
        elif landmark.kind is Retracted and unannounced is not None and _announces(landmark.event, unannounced):
            unannounced = None
    if discarded:  # consumers got the retractions, so they stay
        found = [one for one in found if one.kind is Retracted or one.seq not in discarded]
    return Valid(found, unannounced)


def _announces(event: Retracted, unannounced: int) -> bool:
    return not event.parents and event.since <= unannounced


def read_progress(landmarks: Iterable[Landmark], read_after: ReadAfter) -> Progress:
    """Return the progress that these landmarks describe."""
    progress = Progress(read_after)
    for landmark in landmarks:
        progress.apply(landmark)
    return progress
