"""Replaying: what a resumed run repeats of its record. docs/durability.md has the laws.

What the code does is matched with the record by place and content. Calls and attempts are matched in order, and what
was emitted in them by the names of the calls only: those that run in parallel may be recorded in another order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import attrs

from crewbus.durability.recorded_emissions import Content, Emission, RecordedEmissions
from crewbus.events import Retracted
from crewbus.exceptions import ReplayMismatch
from crewbus.records import Path, Progress, RecordedAttempt, RecordedCall, RecordedHome, is_generated
from crewbus.scopes import Attempt, Call, Run, Scope, nearest

if TYPE_CHECKING:
    from crewbus.durability.step_scope import Step
    from crewbus.events import StepStarted

Commit = tuple[Any, Scope, Any, Any]
"""What a lane commits: the plan, the scope, the event and its source."""
RunKey = tuple[str, str, str]
"""What distinguishes a nested run among its siblings: its name, and the id or the key that was chosen for it."""


@attrs.define(eq=False)
class ReplayedHome:
    """What a run or step that is repeated has not done again yet."""

    recorded: RecordedHome
    calls: dict[Path, deque[RecordedCall]]
    attempts: dict[tuple[Path, int], deque[RecordedAttempt]]
    runs: dict[RunKey, deque[RecordedHome]]
    expected: dict[str, RecordedHome]
    """By identity: the steps that its own thread or task called, and that have an outcome."""

    @classmethod
    def of(cls, recorded: RecordedHome) -> ReplayedHome:
        """Of a recorded home, all is still to be done."""
        made = cls(recorded, {}, {}, {}, {})
        for call in recorded.calls:
            made.calls.setdefault(call.path, deque()).append(call)
        for attempt in recorded.attempts:
            made.attempts.setdefault((attempt.path, attempt.number), deque()).append(attempt)
        for child in recorded.children:
            if child.step is None:
                made.runs.setdefault(_key_of(child), deque()).append(child)
            elif child.step.inline and child.has_outcome and not child.rejected:
                made.expected[child.step.identity] = child
        return made


def run_key(name: str | None, chosen: str | None, key: str | None) -> RunKey:
    """What distinguishes a nested run among its siblings; ``chosen``: its id, if the application chose that."""
    return name or "", chosen or "", key or ""


def _key_of(run: RecordedHome) -> RunKey:
    return run_key(run.name, None if is_generated(run.run_id) else run.run_id, run.key)


class Borrowed(NamedTuple):
    """An emission in an attempt that was matched with text that is recorded as rejected."""

    commit: Commit
    """What commits it anew, if the attempt does not fail this time."""
    where: tuple[RecordedHome, Path]
    content: Content


@attrs.define(eq=False)
class ReplayedAttempt:
    """What an attempt did again."""

    recorded: RecordedAttempt | None = None
    start_id: str | None = None
    """The id of the recorded start that stands for its own."""
    first: int | None = None
    """The lowest number of what was matched in it."""
    parents: dict[str, None] = attrs.field(factory=dict)
    """The recorded parents of what was matched in it."""
    is_valid: bool = False
    """Whether there is anything in it that is not recorded as rejected."""
    borrowed: list[Borrowed] = attrs.field(factory=list)


class Replay:
    """Distinguishes what a resumed run repeats from what is new. Used under the lock of the run's tree."""

    def __init__(self, progress: Progress, run: Run, emissions: RecordedEmissions) -> None:
        assert progress.root is not None
        self.progress: Final = progress
        self._emissions: Final = emissions
        self._diverged: ReplayMismatch | None = None
        self._homes: Final[WeakKeyDictionary[Scope, ReplayedHome]] = WeakKeyDictionary()
        self._calls: Final[WeakKeyDictionary[Scope, RecordedCall]] = WeakKeyDictionary()
        self._attempts: Final[WeakKeyDictionary[Scope, ReplayedAttempt]] = WeakKeyDictionary()
        self._changed: Final[WeakSet[Scope]] = WeakSet()
        """The runs and calls in which something new happened."""
        self._homes[run] = ReplayedHome.of(progress.root)

    def _home(self, scope: Scope) -> ReplayedHome | None:
        parent = scope.step_parent
        return self._homes.get(parent) if parent is not None else None

    # Emissions

    def may_repeat(self) -> bool:
        """Whether there are recorded emissions that were not repeated yet."""
        return not self._emissions.is_exhausted

    def match(self, scope: Scope, content: Content) -> Emission | None:
        """Find the recorded emission that one in ``scope`` repeats; None: it is new."""
        home, call = self._home(scope), _call_around(scope)
        if home is None or not self._is_repeated(call):
            return None
        where = home.recorded, _path_of(call)
        found = self._emissions.match(where, content, rejected=bool(_attempts(scope)))
        if found is not None:
            for attempt in _attempts(scope):
                state = self.attempt(attempt)
                state.first = min(found.seq, found.seq if state.first is None else state.first)
                state.parents[found.parent] = None
                state.is_valid = state.is_valid or not found.rejected
        return found

    def _is_repeated(self, call: Call | None) -> bool:
        return call is None or call in self._calls

    def borrow(self, scope: Scope, content: Content, commit: Commit) -> None:
        """Note that an emission in an attempt was matched with rejected text."""
        home = self._home(scope)
        assert home is not None
        where = home.recorded, _path_of(_call_around(scope))
        self.attempt(_attempts(scope)[-1]).borrowed.append(Borrowed(commit, where, content))

    def settle(self, attempt: Attempt) -> list[Commit]:
        """An attempt succeeds: return what is to be committed anew, since its rejected text is not rejected now."""
        state = self._attempts.get(attempt)
        if state is None:
            return []
        borrowed, state.borrowed = state.borrowed, []
        around = _attempts(attempt)[:-1]
        if borrowed and around:
            self.attempt(around[-1]).borrowed += borrowed
            return []
        return [one.commit for one in borrowed if self._emissions.match(one.where, one.content, rejected=False) is None]

    def changes(self, scope: Scope) -> None:
        """Note that something new happens in ``scope``."""
        for attempt in _attempts(scope):
            self.attempt(attempt).is_valid = True
        around: Scope | None = scope
        while around is not None:
            self._changed.add(around.represented())
            around = around.outer

    # Starts and ends

    def claim_call(self, call: Call) -> int | None:
        """The number of the recorded call that one which starts repeats; None: it is new."""
        home = self._home(call)
        waiting = home.calls.get(_path_of(call)) if home is not None else None
        if not waiting or not self._is_repeated(_call_outside(call)):
            return None
        self._calls[call] = recorded = waiting.popleft()
        return recorded.start

    def claim_attempt(self, attempt: Attempt) -> int | None:
        """The number of the recorded attempt that one which starts repeats; None: it is new."""
        home, call = self._home(attempt), _call_around(attempt)
        waiting = home.attempts.get((_path_of(call), attempt.attempt_number)) if home is not None else None
        if not waiting or home is None or not self._is_repeated(call):
            return None
        state = self.attempt(attempt)
        state.recorded = waiting.popleft()
        state.start_id = f"{home.recorded.run_id}:{state.recorded.start}"
        return state.recorded.start

    def attempt(self, attempt: Scope) -> ReplayedAttempt:
        """What a live attempt did again."""
        return self._attempts.setdefault(attempt, ReplayedAttempt())

    def begins_anew(self, attempt: Attempt) -> bool:
        """Whether a recorded start stands for that of ``attempt``: something new in it needs a start of its own."""
        state = self._attempts.get(attempt)
        if state is None or state.start_id is None or attempt.start_id != state.start_id:
            return False
        attempt.opened.remove(state.start_id)
        return True

    def retraction(self, attempt: Attempt, event: object) -> tuple[object, int | None]:
        """The retraction of an attempt that fails, and the number under which it is recorded; None: it is new."""
        state = self._attempts.pop(attempt, None)
        if state is None or not isinstance(event, Retracted):
            return event, None
        recorded_at = state.recorded.retracted_at if state.recorded is not None else None
        if recorded_at is not None and not state.is_valid:
            return event, recorded_at
        parents = dict.fromkeys((*event.parents, *state.parents))
        if state.start_id not in state.parents:  # another attempt may have been recorded there
            parents.pop(state.start_id or "", None)
        since = event.since if state.first is None else min(event.since, state.first)
        return Retracted(since, event.reason, tuple(parents)), None

    def claim_run(self, run: Run) -> RecordedHome | None:
        """The recorded run that a nested one repeats; None: it is new."""
        around = run.around
        home = self._homes.get(around) if around is not None else None
        key = run_key(run.name, run.id if run.named else None, run.key)
        waiting = home.runs.get(key) if home is not None else None
        if not waiting:
            return None
        recorded = waiting.popleft()
        self._homes[run] = ReplayedHome.of(recorded)
        return recorded

    def claim_end(self, scope: Call | Run, event: object) -> int | None:
        """The number of the recorded end that this one repeats; None: it is new."""
        recorded: RecordedCall | RecordedHome | None = self._calls.get(scope)
        if isinstance(scope, Run):
            recorded = self._homes[scope].recorded if scope in self._homes else None
        if recorded is None or scope in self._changed or recorded.end_type is not type(event):
            return None
        return recorded.end

    def ended(self, scope: Scope) -> None:
        """Forget a scope that has ended."""
        for known in (self._homes, self._calls, self._attempts):
            known.pop(scope, None)
        self._changed.discard(scope)

    # Steps

    def find(self, step: Step) -> RecordedHome | None:
        """What is recorded of a step that is called, if it has an outcome. Raises `ReplayMismatch`.

        Once that was raised, each later step and the end raise it again: the code may have swallowed it.
        """
        self.refuse_to_go_on()
        home = self._home(step.of)
        recorded = self.progress.steps.get(step.event.identity)
        if home is None:
            return None
        if recorded is not None and recorded.has_outcome:
            home.expected.pop(step.event.identity, None)
            return recorded
        if recorded is None and home.expected and step.event.inline:
            expected = next(iter(home.expected.values()))
            self._diverged = mismatch(expected, describe_step(step.event), home.recorded)
            raise self._diverged
        return None

    def recalled(self, step: Step, recorded: RecordedHome) -> None:
        """Note that a step is not executed."""
        for attempt in _attempts(step.of):
            state = self.attempt(attempt)
            state.is_valid = state.is_valid or not recorded.rejected

    def enter(self, step: Step) -> RecordedHome | None:
        """Repeat in a step that is executed again what is recorded in it; returns that."""
        recorded = self.progress.steps.get(step.event.identity)
        if recorded is not None:
            self._homes[step] = ReplayedHome.of(recorded)
        return recorded

    def refuse_to_go_on(self) -> None:
        """Raise `ReplayMismatch` if it was raised before."""
        if self._diverged is not None:
            raise self._diverged.with_traceback(None)

    def refuse_rest(self, scope: Run | Step) -> None:
        """Raise `ReplayMismatch` if ``scope`` succeeds but did not call all of its finished steps again."""
        self.refuse_to_go_on()
        home = self._homes.get(scope)
        missing = [one for one in home.expected.values() if one.finished] if home is not None else []
        if home is not None and missing:
            raise mismatch(missing[0], "its end", home.recorded)


def _attempts(scope: Scope) -> list[Attempt]:
    """The attempts around an emission in ``scope``, without the steps."""
    return [attempt for attempt in scope.attempts if attempt.step_parent is not attempt]


def _call_around(scope: Scope) -> Call | None:
    """The call that ``scope`` belongs to, within its home."""
    call = scope.emitted_from().call
    return call if call is not None and call.step_parent is scope.step_parent else None


def _path_of(call: Call | None) -> Path:
    """The names of the enclosing calls in the same home, outermost first, and of the call itself."""
    if call is None:
        return ()
    return (*_path_of(_call_outside(call)), call.name)


def _call_outside(call: Call) -> Call | None:
    """The call that another was made in, within the same home."""
    parent = call.step_parent
    around = nearest(call.bus, call.outer)
    while around is not None and around is not parent and around.step_parent is parent:
        if isinstance(around, Call):
            return around
        around = around.of if isinstance(around, Attempt) else nearest(call.bus, around.outer)
    return None


def mismatch(expected: RecordedHome, found: str, home: RecordedHome) -> ReplayMismatch:
    """The error that says where a resumed run diverged from its record."""
    assert expected.step is not None
    scope, step = home.describe(), describe_step(expected.step)
    return ReplayMismatch(
        f"{scope} diverged from its record: expected {step}, found {found}; resume it with the code that recorded it, "
        "or fork it from a checkpoint before this",
        expected=step,
        found=found,
        scope=scope,
    )


def describe_step(step: StepStarted) -> str:
    """Describe a step for an error message."""
    again = f" number {step.ordinal + 1}" if step.ordinal else ""
    return f"step {step.name!r} with key {step.key!r}{again}" if step.key else f"step {step.name!r}{again}"
