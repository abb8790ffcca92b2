"""Replaying: what a resumed run still repeats of its record."""

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
"""The numbers of the events that user code emitted after one number, up to another, by the id of their parent."""


@attrs.define(eq=False)
class ReplayCursor:
    """How far a run or step that continues has repeated what is recorded directly in it."""

    recorded: RecordedScope
    boundary: int
    last_inline_start: int
    """The start of the last recorded step that it called inline: everything before that step returns is repeated."""
    pending: dict[str, None]
    """The identities of the inline steps that it has not called again yet."""
    calls: dict[tuple[str, ...], deque[RecordedCall]]
    runs: dict[tuple[str, str], deque[RecordedScope]]
    attempts: deque[str]
    remaining: int | None = None
    """How many emissions are still repeated once no step is pending; None: not counted yet."""

    @classmethod
    def of(cls, recorded: RecordedScope, progress: Progress) -> ReplayCursor:
        """A cursor at the start of a recorded scope."""
        boundary = recorded.boundary
        pending = dict.fromkeys(recorded.inline_steps(progress.steps))
        last_inline_start = max((recorded.finished[identity].start for identity in pending), default=recorded.start)
        calls = _grouped((call.path, call) for call in recorded.calls if call.is_replayed(boundary))
        inner_runs = (
            inner for inner in recorded.children if inner.step is None and _is_repeated_run(inner, boundary, progress)
        )
        runs = _grouped((_run_key(inner.name, inner.run_id), inner) for inner in inner_runs)
        return cls(recorded, boundary, last_inline_start, pending, calls, runs, deque(recorded.ids[1:]))

    def is_pending(self) -> bool:
        """Whether a recorded step that was called inline has not been called again yet."""
        while self.pending:
            first = next(iter(self.pending))
            if first in self.recorded.finished:
                return True
            del self.pending[first]
        return False

    def claim(self, candidates: deque[S] | None) -> S | None:
        """Take the next recorded call or run that is still repeated."""
        if candidates and not self.is_pending():
            while candidates and candidates[0].end is not None and candidates[0].start < self.last_inline_start:
                candidates.popleft()
        return candidates.popleft() if candidates else None

    def emission_parents(self) -> frozenset[str]:
        """The parents of the events emitted directly in it, and in calls that were left open and not made again."""
        left_open: list[RecordedCall] = []
        for call in self.recorded.calls:
            if call.is_replayed(self.boundary):  # this call repeats the open ones of its name
                left_open = [earlier for earlier in left_open if earlier.path != call.path]
            else:
                left_open.append(call)
        return frozenset((*self.recorded.ids, *(parent for call in left_open for parent in call.ids)))


def _is_repeated_run(inner: RecordedScope, boundary: int, progress: Progress) -> bool:
    return inner in progress.reopened or inner.is_replayed(boundary)


def _grouped(pairs: Iterable[tuple[K, S]]) -> dict[K, deque[S]]:
    groups: dict[K, deque[S]] = {}
    for key, recorded in pairs:
        groups.setdefault(key, deque()).append(recorded)
    return groups


def _run_key(name: str, run_id: str) -> tuple[str, str]:
    """What identifies a nested run in the record: its name, and its id if the application chose that."""
    return name, "" if is_generated(run_id) else run_id


def _path_of(call: Call) -> tuple[str, ...]:
    """The names of the enclosing calls in the same run or step, outermost first, and of the call itself."""
    path, parent = [call.name], call.step_parent
    around = nearest(call.bus, call.outer)
    while around is not None and around is not parent and around.step_parent is parent:
        if isinstance(around, Call):
            path.append(around.name)
        around = around.of if isinstance(around, Attempt) else nearest(call.bus, around.outer)
    return tuple(reversed(path))


class Replay:
    """Distinguishes repeated emissions, calls, runs and steps from new ones. Used under the lock of the run's tree."""

    def __init__(self, progress: Progress, run: Run, emissions: Emissions) -> None:
        self.progress = progress
        self._emissions = emissions
        self._emitted: dict[str, list[int]] | None = None
        self._diverged: ReplayMismatch | None = None
        self._unclaimed: Final = {scope: ReplayCursor.of(scope, progress) for scope in progress.reopened}
        self._cursors: Final[WeakKeyDictionary[Scope, ReplayCursor]] = WeakKeyDictionary()
        self._repeated: Final[WeakKeyDictionary[Scope, None]] = WeakKeyDictionary()
        assert progress.root is not None
        self._cursors[run] = self._unclaimed.pop(progress.root)

    def repeats(self, scope: Scope) -> bool:
        """Whether the next emission in ``scope`` is recorded already. Counts the emission."""
        cursor = self._cursor_around(scope)
        if cursor is None:
            return self.is_repeated(scope)
        if cursor.is_pending():
            return True
        if cursor.remaining is None:
            cursor.remaining = self._count(cursor)
        if cursor.remaining > 0:
            cursor.remaining -= 1
            return True
        return False

    def _count(self, cursor: ReplayCursor) -> int:
        """How many emissions directly in a scope are recorded between its last inline step and its boundary."""
        if self._emitted is None:  # read once for all cursors, since reading takes time
            cursors = (*self._unclaimed.values(), *self._cursors.values())
            first, last = min(one.last_inline_start for one in cursors), max(one.boundary for one in cursors)
            self._emitted = self._emissions(first, last)
        numbers = (self._emitted.get(parent, ()) for parent in cursor.emission_parents())
        return sum(
            bisect_right(found, cursor.boundary) - bisect_right(found, cursor.last_inline_start) for found in numbers
        )

    def _cursor_around(self, scope: Scope) -> ReplayCursor | None:
        if self.is_repeated(scope):
            return None
        parent = scope.step_parent
        return self._cursors.get(parent) if parent is not None else None

    def is_repeated(self, scope: Scope | None) -> bool:
        """Whether all of ``scope`` is recorded: a call or run that ended, or an attempt in one."""
        scope = scope.represented() if scope is not None else None
        while scope is not None:
            if scope in self._repeated:
                return True
            scope = scope.of if isinstance(scope, Attempt) and scope.step_parent is not scope else None
        return False

    def is_pending(self, scope: Scope) -> bool:
        """Whether a recorded step that ``scope`` called inline has not been called again yet."""
        cursor = self._cursor_around(scope)
        return self.is_repeated(scope) if cursor is None else cursor.is_pending()

    # Starting scopes

    def claim_call(self, call: Call) -> int | None:
        """Match a call that starts with a recorded one. Returns its number in the record, -1 if that is not known."""
        around = call.step_parent
        if self.is_repeated(around):
            self._repeated[call] = None
            return -1
        cursor = self._cursors.get(around) if around is not None else None
        recorded = cursor.claim(cursor.calls.get(_path_of(call))) if cursor is not None else None
        if recorded is None:
            return None
        self._repeated[call] = None
        return recorded.start

    def claim_attempt(self, attempt: Attempt) -> int | None:
        """Match an attempt that starts with a recorded one. Returns its number in the record."""
        cursor = self._cursors.get(attempt.of)
        return int(cursor.attempts.popleft().rpartition(":")[2]) if cursor is not None and cursor.attempts else None

    def claim_run(self, run: Run) -> RecordedScope | None:
        """Match a nested run that starts with a recorded one: it is repeated, or continues if it was left open."""
        around = run.around
        if self.is_repeated(around):
            self._repeated[run] = None
            return None
        cursor = self._cursors.get(around) if around is not None else None
        key = _run_key(run.name or "", run.id)
        recorded = cursor.claim(cursor.runs.get(key)) if cursor is not None else None
        if recorded is None:
            return None
        if recorded in self._unclaimed:
            self._cursors[run] = self._unclaimed.pop(recorded)
        else:
            self._repeated[run] = None
        return recorded

    def ended(self, scope: Scope) -> None:
        """Forget a scope that has ended."""
        self._repeated.pop(scope, None)
        self._cursors.pop(scope, None)

    # Steps

    def find(self, identity: str) -> int | None:
        """The number of the event that holds a step's result, or None."""
        return self.progress.results.get(identity)

    def returned(self, identity: str) -> RecordedScope:
        """Stop waiting for a recorded step, which was called again. Returns what is recorded of it."""
        recorded = self.progress.steps[identity]
        if recorded.parent is not None:
            recorded.parent.forget(identity)
        return recorded

    def retract(self, since: int, parents: tuple[str, ...]) -> None:
        """Execute again what was recorded since this number in these parents: it was retracted."""
        self.progress.retract(Retracted(since, "", parents))

    def refuse_divergence(self, step: Step) -> None:
        """Raise `ReplayMismatch` if an unknown inline step is called where the record has another one.

        Once it was raised, each later step and the end raise it again: the code may have swallowed it.
        """
        cursor = self._cursors.get(step.around) if step.around is not None else None
        if cursor is None or not step.event.inline or step.event.identity in self.progress.steps:
            return
        if not cursor.is_pending():
            return
        expected = self.progress.steps[next(iter(cursor.pending))].step
        assert expected is not None
        self._diverged = mismatch(expected, describe_step(step.event), cursor.recorded)
        raise self._diverged

    def refuse_to_go_on(self) -> None:
        """Raise `ReplayMismatch` if it was raised before."""
        if self._diverged is not None:
            raise self._diverged.with_traceback(None)

    def enter(self, step: Step) -> None:
        """Continue a step that was left open, or failed, with what is recorded in it."""
        recorded = self.progress.steps.get(step.event.identity)
        if recorded is not None and recorded in self._unclaimed:
            self._cursors[step] = self._unclaimed.pop(recorded)
            step.recorded = recorded

    def succeeded(self, step: Step) -> None:
        """Note that a step succeeded that is recorded as failed: the run need not repeat how it handled the failure."""
        failed = self.progress.failures.get(step.event.identity)
        recorded = self.progress.steps.get(step.event.identity)
        if failed is not None and recorded is not None and recorded.parent is not None:
            recorded.parent.forget_between(failed, None, step.event.identity)

    def refuse_rest(self, scope: Run | Step) -> None:
        """Raise `ReplayMismatch` if ``scope`` succeeds but did not call all of its recorded steps again."""
        self.refuse_to_go_on()
        cursor = self._cursors.get(scope)
        if cursor is None or not cursor.recorded.finished:
            return
        expected = self.progress.steps[next(iter(cursor.recorded.finished))].step
        assert expected is not None
        raise mismatch(expected, "its end", cursor.recorded)


def mismatch(expected: StepStarted, found: str, recorded: RecordedScope) -> ReplayMismatch:
    """The error that says where a resumed run diverged from its record."""
    scope = recorded.describe()
    return ReplayMismatch(
        f"{scope} diverged from its record: expected {describe_step(expected)}, found {found}; resume it with the code "
        "that recorded it, or fork it from a checkpoint before this",
        expected=describe_step(expected),
        found=found,
        scope=scope,
    )


def describe_step(step: StepStarted) -> str:
    """Describe a step for an error message."""
    again = f" number {step.ordinal + 1}" if step.ordinal else ""
    return f"step {step.name!r} with key {step.key!r}{again}" if step.key else f"step {step.name!r}{again}"
