"""The progress of a recorded run: which of its steps have finished, and what a resume takes back.

docs/durability.md has the rules, and the model that they are checked against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs

from crewbus.events import (
    AttemptStarted,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    Retracted,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepFailed,
    StepFinished,
    StepStarted,
)
from crewbus.records.record import Landmark
from crewbus.records.retractions import DiscardedRanges, Retractions
from crewbus.records.tree import Node, RecordTree


class FinishedStep(NamedTuple):
    """The numbers of a finished step's start and end."""

    start: int
    end: int


@attrs.define(eq=False)
class RecordedCall:
    """A call as recorded."""

    name: str
    start: int
    ids: list[str]
    """Its own id and those of its attempts: the parents of what was emitted in it."""
    end: int | None = None
    succeeded: bool = False
    path: tuple[str, ...] = ()
    """Its name, after the names of the calls around it in the same run or step."""

    def retract_end(self, since: int) -> None:
        """Make it open again if it ended at this number or later."""
        if self.end is not None and self.end >= since:
            self.end, self.succeeded = None, False

    def is_replayed(self, boundary: int) -> bool:
        """Whether a resume repeats it from the record, where its run or step has this boundary."""
        return self.end is not None and self.start < boundary and (self.succeeded or self.end < boundary)


@attrs.define(eq=False)
class RecordedScope(RecordedCall):
    """A run or step as recorded: steps, calls and runs belong to one."""

    parent: RecordedScope | None = None
    step: StepStarted | None = None
    run_id: str = ""
    calls: dict[RecordedCall, None] = attrs.field(factory=dict)
    children: dict[RecordedScope, None] = attrs.field(factory=dict)
    last_try: int = -1
    """Of a step: the number of the start of its last try."""
    finished: dict[str, FinishedStep] = attrs.field(factory=dict)
    """By identity, in order of their ends: the steps that finished in it at any depth, except inside another one."""

    @property
    def boundary(self) -> int:
        """The number of the last step end in it, or of its own start: a resume executes again what came later."""
        return next(reversed(self.finished.values())).end if self.finished else self.start

    def ancestry(self) -> Iterator[RecordedScope]:
        """Yield this scope and those around it, outward."""
        scope: RecordedScope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def describe(self) -> str:
        """Describe it for an error message."""
        return f"{'step' if self.step else 'run'} {self.name!r}" if self.name else f"run {self.run_id}"

    def inline_steps(self, steps: Mapping[str, RecordedScope]) -> Iterator[str]:
        """Yield the identities of the finished steps directly in it that its own thread or task called."""
        for identity in self.finished:
            scope = steps[identity]
            if scope.parent is self and scope.step is not None and scope.step.inline:
                yield identity

    def forget(self, identity: str) -> None:
        """Stop expecting a step in this scope."""
        for scope in self.ancestry():
            scope.finished.pop(identity, None)

    def forget_between(self, after: int, before: int | None, other_than: str) -> None:
        """Stop expecting the steps that started between these numbers, except for one."""
        found = []
        for identity, numbers in reversed(self.finished.items()):
            if numbers.end < after:
                break
            if identity != other_than and numbers.start > after and (before is None or numbers.start < before):
                found.append(identity)
        for identity in found:
            self.forget(identity)

    def is_complete(self, boundary: int) -> bool:
        """Whether a resume executes nothing of it, where the scope around it has this boundary."""
        return self.succeeded if self.step is not None else self.is_replayed(boundary)

    def is_discarded(self, boundary: int) -> bool:
        """Whether it started after this boundary of the scope around it, and is not reopened."""
        return self.start > boundary and (self.step is not None or self.succeeded)

    def retracted_parents(self, *, ended: bool = False) -> Iterator[str]:
        """Yield the parents of what was emitted in it after its boundary.

        Reopened scopes in it have their own boundaries, unless it has ``ended``: then none is reopened.
        """
        boundary = self.boundary
        yield from self.ids
        for call in self.calls:
            if not call.is_replayed(boundary):
                yield from call.ids
        for child in self.children:
            discarded = child.start > boundary if ended else child.is_discarded(boundary)
            if discarded and not child.is_complete(boundary):
                yield from child.emission_parents()

    def emission_parents(self, *, finished_steps: bool = False) -> Iterator[str]:
        """Yield the parents of what was emitted in it; of what its finished steps emitted only on request."""
        yield from self.ids
        for call in self.calls:
            yield from call.ids
        for child in self.children:
            if finished_steps or child.step is None or not child.succeeded:
                yield from child.emission_parents(finished_steps=finished_steps)


class _Owner(NamedTuple):
    """What a landmark opened: a call or attempt in a scope, or the scope itself."""

    scope: RecordedScope
    call: RecordedCall


class Progress:
    """Built landmark by landmark. A retracted step is not finished; a finished one stays so otherwise."""

    def __init__(self) -> None:
        self.root: RecordedScope | None = None
        self.results: dict[str, int] = {}
        """By the identity of each finished step: the number of the event that holds its result."""
        self.steps: dict[str, RecordedScope] = {}
        """By identity: the last try at each step."""
        self.failures: dict[str, int] = {}
        """By identity: where a step failed first."""
        self.reopened: list[RecordedScope] = []
        """The scopes that a resume reopens."""
        self.retractions = Retractions()
        self._tree: RecordTree[_Owner] = RecordTree()
        self._appliers: Final[dict[type, Callable[[Landmark, Node[_Owner] | None], None]]] = {
            RunStarted: self._run_started,
            RunFinished: self._ended,
            RunFailed: self._ended,
            RunCancelled: self._ended,
            RunResumed: self._resumed,
            StepStarted: self._step_started,
            StepFinished: self._step_finished,
            StepFailed: self._step_failed,
            CallStarted: self._call_started,
            CallFinished: self._ended,
            CallFailed: self._ended,
            CallCancelled: self._ended,
            AttemptStarted: self._attempt_started,
            Retracted: self._retracted,
        }

    def apply(self, landmark: Landmark) -> None:
        """Take the next landmark."""
        applier = self._appliers.get(landmark.kind)
        if applier is not None:
            applier(landmark, self._tree.apply(landmark.kind, landmark))

    def _owner(self, node: Node[_Owner] | None) -> _Owner | None:
        """The owner that a node belongs to; the root where the record does not have it."""
        if node is not None and node.value is not None:
            return node.value
        return _Owner(self.root, self.root) if self.root is not None else None

    def _open(self, landmark: Landmark, node: Node[_Owner], name: str, step: StepStarted | None) -> RecordedScope:
        owner = self._owner(node.parent)
        parent = owner.scope if owner is not None else None
        scope = RecordedScope(name, landmark.seq, [landmark.id], parent=parent, step=step, run_id=landmark.run_id or "")
        node.value = _Owner(scope, scope)
        if parent is not None:
            parent.children[scope] = None
        return scope

    def _run_started(self, landmark: Landmark, node: Node[_Owner] | None) -> None:
        assert node is not None
        scope = self._open(landmark, node, landmark.event.name or "", None)
        if landmark.parent is None:  # a part of a record may begin with the start of a nested run
            self.root = scope

    def _ended(self, landmark: Landmark, node: Node[_Owner] | None) -> None:
        if node is not None and node.value is not None:
            call = node.value.call
            call.end, call.succeeded = landmark.seq, landmark.kind in (CallFinished, RunFinished)

    def _step_started(self, landmark: Landmark, node: Node[_Owner] | None) -> None:
        assert node is not None
        event: StepStarted = landmark.event
        scope = self.steps.get(event.identity)
        if scope is not None and scope.parent is not None and scope in scope.parent.children:
            scope.ids.append(landmark.id)  # it continues, with what it had done
            node.value = _Owner(scope, scope)
        else:
            scope = self.steps[event.identity] = self._open(landmark, node, event.name, event)
        scope.last_try = landmark.seq

    def _step_finished(self, landmark: Landmark, node: Node[_Owner] | None) -> None:
        owner = self._owner(node)
        if owner is None or owner.scope.step is None or owner.scope.parent is None:
            return
        scope, parent, identity = owner.scope, owner.scope.parent, owner.scope.step.identity
        edited = identity in self.results
        self.results[identity] = landmark.seq
        scope.end, scope.succeeded = landmark.seq, True
        if edited:
            return
        for inner in list(scope.finished):  # its result stands for all that it did
            scope.forget(inner)
        for around in parent.ancestry():
            around.finished[identity] = FinishedStep(scope.start, landmark.seq)
        if identity in self.failures:
            parent.forget_between(self.failures[identity], scope.last_try, identity)

    def _step_failed(self, landmark: Landmark, node: Node[_Owner] | None) -> None:
        owner = self._owner(node)
        if owner is not None and owner.scope.step is not None:
            owner.scope.end, owner.scope.succeeded = landmark.seq, False
            self.failures.setdefault(owner.scope.step.identity, landmark.seq)

    def _call_started(self, landmark: Landmark, node: Node[_Owner] | None) -> None:
        assert node is not None
        owner = self._owner(node.parent)
        if owner is not None:
            path = (*owner.call.path, landmark.event.name)
            call = RecordedCall(landmark.event.name, landmark.seq, [landmark.id], path=path)
            owner.scope.calls[call] = None
            node.value = _Owner(owner.scope, call)

    def _attempt_started(self, landmark: Landmark, node: Node[_Owner] | None) -> None:
        assert node is not None
        owner = self._owner(node.parent)
        if owner is not None:
            owner.call.ids.append(landmark.id)
            node.value = owner

    def _retracted(self, landmark: Landmark, _: Node[_Owner] | None) -> None:
        self.retractions.add(landmark.event, landmark.seq)
        self.retract(landmark.event)

    def retract(self, event: Retracted) -> None:
        """Remove the scopes and calls that started in what is taken back: they are not done."""
        if not event.parents and self.root is not None:
            self._retract_since(self.root, event.since)
        for parent in event.parents:
            node = self._tree.find(parent)
            if node is None or node.value is None or parent != node.value.call.ids[0]:
                continue
            scope, call = node.value
            if call.start < event.since:
                call.retract_end(event.since)
            elif isinstance(call, RecordedScope):
                self._remove(call)
            else:
                scope.calls.pop(call, None)

    def _retract_since(self, scope: RecordedScope, since: int) -> None:
        scope.calls = {call: None for call in scope.calls if call.start < since}
        for child in list(scope.children):
            if child.start >= since:
                self._remove(child)
            elif child.end is None or child.end >= since:
                self._retract_since(child, since)

    def _remove(self, scope: RecordedScope) -> None:
        """Remove a scope, and the results of its steps."""
        parent = scope.parent
        if parent is None or scope not in parent.children:
            return
        for child in list(scope.children):
            self._remove(child)
        del parent.children[scope]
        if scope.step is not None:
            self.results.pop(scope.step.identity, None)
            self.failures.pop(scope.step.identity, None)
            parent.forget(scope.step.identity)

    def _resumed(self, _landmark: Landmark, _: Node[_Owner] | None) -> None:
        if self.root is not None:
            self._reopen(self.root)

    def _reopen(self, scope: RecordedScope) -> None:
        """Make the scopes open again that an earlier resume reopened."""
        boundary = scope.boundary
        scope.end = None
        for child in scope.children:
            if not child.succeeded and (child.step is not None or not child.is_replayed(boundary)):
                self._reopen(child)

    # The end

    def retractions_on_resume(self, last: int) -> list[Retraction]:
        """Reopen the scopes that a resume after number ``last`` continues, and return what it takes back."""
        assert self.root is not None
        retractions: list[Retraction] = []
        self._resume(self.root, last, retractions)
        return retractions

    def _resume(self, scope: RecordedScope, last: int, retractions: list[Retraction]) -> None:
        boundary = scope.boundary
        scope.end = None
        self.reopened.append(scope)
        parents = tuple(scope.retracted_parents())
        for child in scope.children:
            if child.is_complete(boundary):
                self._reopen_failed(child)
            elif child.is_discarded(boundary):
                continue  # the scope around it takes it back
            elif child.step is not None and not child.finished:
                retracted = tuple(child.emission_parents())
                retractions.append(Retraction(child.start, retracted, f"{child.describe()} is executed again"))
            else:
                self._resume(child, last, retractions)
        if last > boundary:
            retractions.append(Retraction(boundary + 1, parents, f"{scope.describe()} continues from before this"))

    def _reopen_failed(self, scope: RecordedScope) -> None:
        """Reopen the failed steps in a scope that is replayed: they are tried again."""
        if scope.step is None:
            for child in scope.children:
                if child.step is not None and not child.succeeded:
                    self.reopened.append(child)
                self._reopen_failed(child)


class Retraction(NamedTuple):
    """What a resume takes back: what belongs to ``parents`` and is numbered ``since`` or later."""

    since: int
    parents: tuple[str, ...]
    reason: str


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
    # Consumers got these retractions, so they stay.
    return Valid([one for one in found if one.kind is Retracted or one.seq not in discarded], unannounced)


def _announces(event: Retracted, unannounced: int) -> bool:
    return not event.parents and event.since <= unannounced


def read_progress(landmarks: Iterable[Landmark]) -> Progress:
    """Return the progress that these landmarks describe."""
    progress = Progress()
    for landmark in landmarks:
        progress.apply(landmark)
    return progress
