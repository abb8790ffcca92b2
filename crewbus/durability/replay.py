"""Replaying: what a resumed run repeats of its record. docs/durability.md has the laws.

What the code does is matched with the record by place and content. Calls and attempts are matched in order, and what
was emitted in them by the names of the calls only, whichever recorded calls they stand for: those that run in parallel
may be recorded in another order. So the first thing that an attempt repeats says which recorded attempt it is; if it
does something new before that, it begins anew, and so do the calls in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from crewbus._util import is_within
from crewbus.durability.nested_runs import key_of
from crewbus.durability.recorded_emissions import Content, Emission, Inside, RecordedEmissions, Where
from crewbus.durability.replayed_attempts import Borrowed, Commit, ReplayedAttempts
from crewbus.durability.replayed_home import CallKey, ReplayedHome
from crewbus.events import Retracted
from crewbus.exceptions import ReplayMismatch
from crewbus.records import Path, Progress, RecordedAttempt, RecordedCall, RecordedHome
from crewbus.scopes import Attempt, Call, Run, Scope, nearest

if TYPE_CHECKING:
    from crewbus.durability.step_scope import Step
    from crewbus.events import AttemptEnded, AttemptStarted, StepStarted


class Replay:
    """Distinguishes what a resumed run repeats from what is new. Used under the lock of the run's tree."""

    def __init__(
        self, progress: Progress, run: Run, emissions: RecordedEmissions, plan_of: Callable[[Any], Any]
    ) -> None:
        assert progress.root is not None
        self.progress: Final = progress
        self._emissions: Final = emissions
        self._plan_of = plan_of
        self._diverged: ReplayMismatch | None = None
        self._homes: Final[WeakKeyDictionary[Scope, ReplayedHome]] = WeakKeyDictionary()
        self._calls: Final[WeakKeyDictionary[Scope, ReplayedCall]] = WeakKeyDictionary()
        self._attempts: Final = ReplayedAttempts(progress.attempts_around)
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

    def match(self, commit: Commit, content: Content) -> int | None:
        """Find the number of the recorded emission that one repeats; None: it is new."""
        plan, scope, _, _ = commit
        home, call, attempts = self._home(scope), _call_around(scope), _attempts(scope)
        if home is None:
            return None
        where = Where(home.recorded, _path_of(call), is_in_attempt(scope))
        found = self._emissions.match(where, content, rejected=self._attempts.may_be_rejected(attempts))
        if found is None:
            return None
        if plan.frame:
            found = (
                self._streamed_again(found.retracted_at, attempts, content, where, scope.emitted_from().run) or found
            )
        self._attempts.matched(attempts, found)
        if found.retracted_at is not None and plan.frame:
            self._attempts.borrow(attempts, Borrowed(tuple(attempts), commit))
        return found.seq

    def _streamed_again(
        self,
        retracted_at: int | None,
        attempts: list[Attempt],
        content: Content,
        where: Where | None = None,
        run: Run | None = None,
    ) -> Emission | None:
        """The last that earlier resumes streamed again for what was taken back, as they went on in these attempts.

        They did so where it had been streamed; directly in an attempt around, if it was in a step or its run had ended.
        """
        last: Emission | None = None
        while retracted_at is not None and (ids := self._attempts.ids_of_going_on(retracted_at, attempts)):
            places = [Inside(where, ids, False)] if where is not None else []
            for attempt in reversed(attempts):
                recorded, around = self._attempts.recorded(attempt), self._where(attempt)
                if recorded is not None and around is not None and attempt.run is not run:
                    places.append(Inside(around, recorded.ids, True))
            found = self._emissions.match_again(places, content, retracted_at)
            if found is None:
                break
            last, retracted_at = found, found.retracted_at
        return last

    def changes(self, scope: Scope, *, repeats: bool) -> tuple[list[Attempt], list[Commit]]:
        """Note that something new happens in ``scope``.

        If it ``repeats`` what was rejected, as text and the result of a step do, returns what comes before it: the
        attempts that go on though they are recorded as failed, and the emissions to commit.
        """
        around: Scope | None = scope
        groups: list[list[Attempt]] = []  # several, if the code calls a step of a run around its own
        while around is not None:
            self._changed.add(around.represented())
            attempts = _attempts(around)
            if attempts and not (groups and attempts[0] is groups[-1][0]):
                groups.append(attempts)
            around = around.outer
        going_on: list[Attempt] = []
        commits: list[Commit] = []
        for attempts in reversed(groups) if repeats else ():
            rejected, borrowed = self._attempts.changes(attempts)
            going_on += rejected
            commits += self._anew(borrowed)
        return going_on, commits

    def kept(self, attempt: Attempt) -> list[Commit]:
        """An attempt succeeds: return the emissions to commit again, since only the record has them as rejected."""
        return self._anew(self._attempts.succeeded(attempt, _attempts(attempt)[:-1]))

    def _anew(self, borrowed: Iterable[Borrowed]) -> list[Commit]:
        commits: list[Commit] = []
        for one in borrowed:
            inside = next(attempt for attempt in reversed(one.attempts) if not attempt.run.ended)
            if one.step is not None:
                open_ones = (scope for scope in reversed(one.around) if not scope.ended and not scope.run.ended)
                inside = next(open_ones, inside)
                texts = (rejected.event for rejected in self._emissions.rejected_in(one.step))
                commits += [(self._plan_of(text), inside, text, None) for text in texts]
            elif one.commit is not None:
                plan, scope, event, source = one.commit
                is_over = scope.run.ended or scope.emitted_from().run.ended
                commits.append((plan, inside if is_over else scope, event, source))
        return [commit for commit in commits if commit[0].frame]

    def _where(self, attempt: Attempt) -> Where | None:
        home = self._home(attempt)
        return Where(home.recorded, _path_of(_call_around(attempt)), True) if home is not None else None

    # Starts and ends

    def claim_call(self, call: Call, commit: Commit) -> int | None:
        """The number of the recorded call that one which starts repeats; None: it is new."""
        home = self._home(call)
        attempt = _attempt_in_home(call)
        made_in = self._attempts.recorded(attempt) if attempt is not None else None
        if home is None or (attempt is not None and made_in is None):
            return None
        key = _path_of(call), made_in
        recorded = home.calls.claim(key)
        if recorded is None:
            return None
        plan, _, event, source = commit
        self._calls[call] = ReplayedCall(recorded, key, (plan, event, source))
        call.start_id = recorded.start_parent
        return recorded.start

    def claim_attempt(self, attempt: Attempt, event: AttemptStarted) -> tuple[AttemptStarted, int | None]:
        """The start of an attempt, and the number of the recorded one that it repeats; None: it is new."""
        home, call = self._home(attempt), _call_around(attempt)
        around = attempt.of if is_in_attempt(attempt.of) else None
        nested_in = self._attempts.recorded(around) if around is not None else None
        if home is None or (around is not None and nested_in is None):
            return event, None
        key = _path_of(call), nested_in, attempt.attempt_number
        recorded = self._attempts.claim(attempt, key, home.attempts, around)
        return (recorded.event, recorded.start) if recorded is not None else (event, None)

    def begins_anew(self, attempt: Attempt) -> AttemptStarted | None:
        """The start that something new in ``attempt`` needs, if a recorded one stands for its own."""
        return self._attempts.begins_anew(attempt, self._is_empty)

    def _is_empty(self, recorded: RecordedAttempt) -> bool:
        """Whether a recorded attempt holds nothing that can be repeated: any attempt may then continue it."""
        place = self.progress.place(recorded.ids[0])
        children = place.home.holds.children if place is not None else ()
        return not (
            any(is_within(child.start_parent, recorded.ids) for child in children) or self._emissions.are_in(recorded)
        )

    def call_begins_anew(self, call: Call) -> Start | None:
        """What starts a call again: the recorded one that stands for it is in an attempt that is another's."""
        known, attempt, home = self._calls.get(call), _attempt_in_home(call), self._home(call)
        if (
            known is None
            or home is None
            or attempt is None
            or self._attempts.recorded(attempt) is known.recorded.attempt
        ):
            return None
        del self._calls[call]
        home.calls.give_back(known.key, known.recorded)
        return known.start

    def is_open(self, attempt: Attempt) -> bool:
        """Whether the recorded attempt that stands for ``attempt`` may still be another's."""
        return self._attempts.is_open(attempt)

    def claim_attempt_end(self, attempt: Attempt, event: AttemptEnded) -> int | None:
        """The number of the recorded end that this one repeats; None: it is new."""
        recorded = self._attempts.recorded(attempt)
        if recorded is None or attempt.start_id != recorded.ids[0]:  # something new happened in it
            return None
        return recorded.end if recorded.outcome == event.outcome else None

    def retraction(self, attempt: Attempt, event: Retracted) -> tuple[Retracted, int | None]:
        """The retraction of an attempt that fails, and the number under which it is recorded; None: it is new."""
        return self._attempts.retraction(attempt, event, _attempts(attempt)[0])

    def retract(self, event: Retracted) -> None:
        """Note that something recorded is taken back now."""
        self._emissions.retract(event)
        self._attempts.retract(event)

    def claim_run(self, run: Run) -> RecordedHome | None:
        """The recorded run that a nested one repeats; None: it is new."""
        around = run.around
        home = self._homes.get(around) if around is not None else None
        key = key_of(run)._replace(name=run.name or None)
        recorded = home.runs.claim(key) if home is not None else None
        if recorded is None:
            return None
        self._attempts.locate(_attempts(run), recorded.start_parent)
        run.start_id = recorded.start_parent
        self._homes[run] = ReplayedHome.of(recorded)
        return recorded

    def claim_end(self, scope: Call | Run, event: object) -> int | None:
        """The number of the recorded end that this one repeats; None: it is new."""
        if scope in self._changed:
            return None
        call, home = self._calls.get(scope), self._homes.get(scope)
        recorded = home.recorded if home is not None else call.recorded if call is not None else None
        return recorded.end if recorded is not None and recorded.end_type is type(event) else None

    # Patches

    def patched_at(self, run: Run, name: str) -> int | None:
        """The number under which it is recorded that ``run`` takes a patch; None: it is not."""
        home = self._homes.get(run)
        return home.recorded.holds.patches.get(name) if home is not None else None

    def goes_on(self, scope: Scope) -> bool:
        """Whether the record of the run or step that ``scope`` is in goes on after this place."""
        home = self._home(scope)
        return home is not None and (
            home.recorded.end is not None or home.is_pending() or self._emissions.are_waiting_in(home.recorded)
        )

    def ended(self, step: Step) -> None:
        """Repeat nothing more in a step: it has ended."""
        self._homes.pop(step, None)

    # Steps

    def find(self, step: Step) -> RecordedHome | None:
        """What is recorded of a step that is called, if it has an outcome. Raises `ReplayMismatch`.

        Once that was raised, each later step and the end raise it again: the code may have swallowed it.
        """
        self.refuse_to_go_on()
        home = self._home(step.of)
        if home is None:
            return None
        recorded = self.progress.steps.find(step.event.identity)
        if recorded is not None and recorded.has_outcome:
            home.expected.pop(recorded, None)
            return recorded
        expected = home.next_inline() if recorded is None and step.event.inline else None
        if expected is not None:
            self._diverged = mismatch(expected, describe_step(step.event), home.recorded)
            raise self._diverged
        return None

    def recalled(self, step: Step, recorded: RecordedHome) -> None:
        """Note that a step is not executed."""
        attempts = _attempts(step.of)
        self._attempts.locate(attempts, recorded.start_parent)
        if not recorded.rejected:
            self._attempts.recalled(attempts, recorded)
        elif self._attempts.have_gone_on(attempts):
            self._recall_rejected(attempts, recorded)
        else:  # what it streamed is only read if it is needed
            around = tuple(step.of.attempts)
            self._attempts.borrow(attempts, Borrowed(tuple(attempts), step=recorded, around=around))

    def _recall_rejected(self, attempts: list[Attempt], step: RecordedHome) -> None:
        for rejected in self._emissions.rejected_in(step):
            plan = self._plan_of(rejected.event)
            if not plan.frame:
                continue
            again = self._streamed_again(rejected.retracted_at, attempts, rejected.content)
            if again is not None:
                self._attempts.matched(attempts, again)
            if again is None or again.retracted_at is not None:
                commit = plan, attempts[-1], rejected.event, None
                self._attempts.borrow(attempts, Borrowed(tuple(attempts), commit))

    def enter(self, step: Step) -> RecordedHome | None:
        """Repeat in a step that is executed again what is recorded in it; returns that."""
        recorded = self.progress.steps.find(step.event.identity)
        if recorded is not None:
            self._attempts.locate(_attempts(step.of), recorded.start_parent)
            if (home := self._home(step.of)) is not None:
                home.open.pop(recorded, None)
            # The tries that have failed are not made again, so what happened in them is not repeated.
            self._homes[step] = ReplayedHome.of(recorded, recorded.failed_at if step.is_retried else -1)
        return recorded

    def refuse_to_go_on(self) -> None:
        """Raise `ReplayMismatch` if it was raised before."""
        if self._diverged is not None:
            raise self._diverged.with_traceback(None)

    def refuse_rest(self, scope: Run | Step) -> None:
        """Raise `ReplayMismatch` if ``scope`` succeeds but did not call all of its finished steps again."""
        self.refuse_to_go_on()
        home = self._homes.get(scope)
        missing = [one for one in home.expected if one.finished] if home is not None else []
        if home is not None and missing:
            raise mismatch(missing[0], "its end", home.recorded)


Start = tuple[Any, Any, Any]
"""What a lane commits of a call as it starts: the plan, the event and its source."""


class ReplayedCall(NamedTuple):
    """What stands for a call."""

    recorded: RecordedCall
    key: CallKey
    start: Start
    """What commits its start anew."""


def _attempt_in_home(call: Call) -> Attempt | None:
    """The innermost attempt in its home that a call is made in."""
    return next((one for one in reversed(_attempts(call)) if one.step_parent is call.step_parent), None)


def _attempts(scope: Scope) -> list[Attempt]:
    """The attempts around an emission in ``scope``, without the steps."""
    return [attempt for attempt in scope.attempts if attempt.step_parent is not attempt]


def is_in_attempt(scope: Scope) -> bool:
    """Whether what is emitted in ``scope`` belongs to an attempt directly."""
    origin = scope.emitted_from()
    return isinstance(origin, Attempt) and origin.step_parent is not origin


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
    return next((around for around in inside_home(call) if isinstance(around, Call) and around is not call), None)


def inside_home(scope: Scope) -> Iterator[Scope]:
    """Yield ``scope`` and those around it, outward, within its home."""
    parent = scope.step_parent
    around: Scope | None = scope
    while around is not None and around is not parent and around.step_parent is parent:
        yield around
        around = around.of if isinstance(around, Attempt) else nearest(around.bus, around.outer)


def around_home(scope: Scope) -> Scope:
    """What a run or step that starts is in; any other scope itself."""
    if scope.step_parent is not scope:
        return scope
    return scope.of if isinstance(scope, Attempt) else nearest(scope.bus, scope.outer) or scope


def call_parent(call: Call) -> Scope:
    """What a call is in directly."""
    return next((around for around in inside_home(call) if around is not call), None) or call.step_parent or call


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
