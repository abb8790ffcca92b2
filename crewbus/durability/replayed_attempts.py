"""What the attempts of a resumed run repeat: those that failed are gone through again, to fail again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

import attrs

from crewbus._util import is_within
from crewbus.durability.replayed_home import AttemptKey, Waiting
from crewbus.events import AttemptStarted, Retracted
from crewbus.records import RecordedAttempt, RecordedHome
from crewbus.scopes import Attempt, Scope

if TYPE_CHECKING:
    from crewbus.durability.recorded_emissions import Emission

Commit = tuple[Any, Scope, Any, Any]
"""What a lane commits: the plan, the scope, the event and its source."""


class Borrowed(NamedTuple):
    """What was repeated in an attempt and is recorded as rejected: an emission, or a step that was recalled."""

    attempts: tuple[Attempt, ...]
    """The attempts around it, outermost first."""
    commit: Commit | None = None
    """What commits the emission anew."""
    step: RecordedHome | None = None
    around: tuple[Attempt, ...] = ()
    """The attempts and steps around the step, outermost first."""


class OpenClaim(NamedTuple):
    """What may stand for an attempt."""

    key: AttemptKey
    waiting: Waiting[AttemptKey, RecordedAttempt]
    around: Scope | None
    """The attempt that it is in directly."""


@attrs.define(eq=False)
class ReplayedAttempt:
    """What an attempt repeated."""

    recorded: RecordedAttempt | None = None
    start_id: str | None = None
    """The id of the recorded start that its consumers were given as its start."""
    open: OpenClaim | None = None
    """As long as it is open which recorded attempt stands for it: what there is to choose from."""
    first: int | None = None
    """The lowest number of what was matched in it."""
    retracted_at: int | None = None
    """The number of the last retraction of what was matched in it."""
    is_valid: bool = False
    """Whether there is anything in it that is not recorded as rejected."""
    goes_on: bool = False
    """Whether it went on where the recorded one had failed: so nothing in it is rejected any more."""


class ReplayedAttempts:
    """What the attempts of one resumed run repeated. Used under the lock of the run's tree."""

    def __init__(self, around: Callable[[str | None], list[RecordedAttempt]]) -> None:
        self._around = around
        """Returns the recorded attempts around what belongs to a parent."""
        self._states: Final[WeakKeyDictionary[Scope, ReplayedAttempt]] = WeakKeyDictionary()
        self._holders: Final[WeakValueDictionary[RecordedAttempt, Attempt]] = WeakValueDictionary()
        self._borrowed: Final[WeakKeyDictionary[Scope, list[Borrowed]]] = WeakKeyDictionary()
        """By the outermost attempt."""

    def _state(self, attempt: Attempt) -> ReplayedAttempt:
        return self._states.setdefault(attempt, ReplayedAttempt())

    def claim(
        self,
        attempt: Attempt,
        key: AttemptKey,
        waiting: Waiting[AttemptKey, RecordedAttempt],
        around: Scope | None,
    ) -> RecordedAttempt | None:
        """Let the first recorded attempt of this key stand for one that starts, until something tells them apart."""
        state, recorded = self._state(attempt), waiting.claim(key)
        state.open = OpenClaim(key, waiting, around)
        if recorded is not None:
            self._stand(recorded, attempt)
            attempt.start_id = recorded.start_parent
        return recorded

    def _stand(self, recorded: RecordedAttempt | None, attempt: Attempt) -> None:
        state = self._state(attempt)
        state.recorded = recorded
        state.retracted_at = recorded.retracted_at if recorded is not None else None
        if recorded is not None:
            state.start_id = attempt.start_id = recorded.ids[0]
            self._holders[recorded] = attempt

    def is_open(self, attempt: Scope) -> bool:
        """Whether the recorded attempt that stands for ``attempt`` may still be another's."""
        state = self._states.get(attempt)
        return state is not None and state.open is not None

    def locate(self, attempts: Iterable[Attempt], parent: str | None) -> None:
        """Settle which recorded attempts stand for these, which repeat what belongs to ``parent``."""
        for attempt in attempts:
            state = self._state(attempt)
            if state.open is None or not (self._is_right(state, parent) or self._exchange(attempt, state, parent)):
                continue
            state.open = None
            if state.recorded is not None:
                attempt.starts = (*state.recorded.ids, *attempt.starts)

    @staticmethod
    def _is_right(state: ReplayedAttempt, parent: str | None) -> bool:
        return state.recorded is not None and is_within(parent, state.recorded.ids)

    def _exchange(self, attempt: Attempt, state: ReplayedAttempt, parent: str | None) -> bool:
        """Let the recorded attempt that ``parent`` is in stand for this one, unless it is known to be another's."""
        assert state.open is not None
        (path, _, number), waiting, _ = state.open
        key = path, self._nested_in(state.open), number
        found, old = next((one for one in self._around(parent) if _key(one) == key), None), state.recorded
        if found is None:
            return False
        if waiting.take(_key(found), found):
            if old is not None:
                waiting.give_back(_key(old), old)
        else:
            holder = self._holders.get(found)
            if holder is None or not self.is_open(holder) or holder.start_id != found.ids[0]:
                return False
            self._stand(old, holder)
        self._stand(found, attempt)
        return True

    def _nested_in(self, claim: OpenClaim) -> RecordedAttempt | None:
        return self.recorded(claim.around) if claim.around is not None else None

    def recorded(self, attempt: Scope) -> RecordedAttempt | None:
        """The recorded attempt that stands for ``attempt``, if there is one."""
        state = self._states.get(attempt)
        return state.recorded if state is not None else None

    def begins_anew(self, attempt: Attempt, is_empty: Callable[[RecordedAttempt], bool]) -> AttemptStarted | None:
        """The start that something new in ``attempt`` needs, if a recorded one stands for its own.

        What repeats nothing of the recorded attempt yet is not that attempt, but another. One that is empty it keeps:
        else that would stay in the record, and stand for the next resume's.
        """
        state = self._states.get(attempt)
        if state is None:
            return None
        recorded, claim = state.recorded, state.open
        state.open = None
        if state.start_id is None or attempt.start_id != state.start_id:
            return None
        if claim is None:
            return AttemptStarted(attempt.attempt_number, recorded.start if recorded is not None else None)
        if recorded is not None and recorded.around is self._nested_in(claim) and is_empty(recorded):
            attempt.starts = (*recorded.ids, *attempt.starts)
            return AttemptStarted(attempt.attempt_number, recorded.start)
        if recorded is not None:
            claim.waiting.give_back(_key(recorded), recorded)
        state.recorded = state.retracted_at = None
        attempt.since = 0
        return AttemptStarted(attempt.attempt_number)

    def may_be_rejected(self, attempts: Sequence[Attempt]) -> bool:
        """Whether what is emitted in these attempts may be recorded as rejected."""
        return bool(attempts) and not any(self._state(attempt).goes_on for attempt in attempts)

    def matched(self, attempts: Iterable[Attempt], emission: Emission) -> None:
        """Note that an emission in these attempts was matched."""
        for attempt in attempts:
            self.locate((attempt,), emission.parent)
            state = self._state(attempt)
            state.first = emission.seq if state.first is None else min(emission.seq, state.first)
            if state.recorded is not None and not is_within(emission.parent, state.recorded.ids):
                # What is recorded there may be another's, from now on: what it repeats is named one by one.
                attempt.starts = tuple(one for one in attempt.starts if one not in state.recorded.ids)
            attempt.note(emission.parent, alone=True)
            if emission.retracted_at is None:
                state.is_valid = True
            else:
                state.retracted_at = max(emission.retracted_at, state.retracted_at or 0)

    def recalled(self, attempts: Iterable[Attempt], step: RecordedHome) -> None:
        """Note that a step in these attempts was recalled, which no failed attempt took back."""
        for attempt in attempts:
            state = self._state(attempt)
            state.is_valid = True
            state.first = step.start if state.first is None else min(step.start, state.first)

    def have_gone_on(self, attempts: Iterable[Attempt]) -> bool:
        """Whether an earlier resume went on in one of these that had failed."""
        return any(one.went_on_after for one in map(self.recorded, attempts) if one is not None)

    def ids_of_going_on(self, retracted_at: int, attempts: Iterable[Attempt]) -> list[str]:
        """The ids of those of these attempts in which a resume went on after this retraction."""
        recorded = [one for one in map(self.recorded, attempts) if one is not None]
        return [start for one in recorded if retracted_at in one.went_on_after for start in one.ids]

    def borrow(self, attempts: Sequence[Attempt], borrowed: Borrowed) -> None:
        """Keep what was matched with something rejected, in case the attempt does not fail this time."""
        if attempts:
            self._borrowed.setdefault(attempts[0], []).append(borrowed)

    def changes(self, attempts: Sequence[Attempt]) -> tuple[list[Attempt], list[Borrowed]]:
        """Note that something new happens in these attempts.

        Returns those that go on though they are recorded as failed, and what to commit before it.
        """
        for attempt in attempts:
            self._state(attempt).is_valid = True
        states = [(one, self._state(one)) for one in attempts]
        rejected = [
            one for one, state in states if state.recorded and state.recorded.retracted_at and state.open is None
        ]
        if not rejected or not self.may_be_rejected(attempts):
            return [], []
        for attempt in attempts:
            self._state(attempt).goes_on = True
        return rejected, self._borrowed.pop(attempts[0], [])

    def retract(self, event: Retracted) -> None:
        """Do not commit again what a step streamed that is taken back now, with the step around it."""
        for borrowed in self._borrowed.values():
            borrowed[:] = [
                one for one in borrowed if one.step is None or not event.covers(one.step.start, one.step.start_parent)
            ]

    def succeeded(self, attempt: Attempt, around: Sequence[Attempt]) -> list[Borrowed]:
        """An attempt succeeded inside those ``around`` it. Returns what to commit again."""
        return [] if around else self._borrowed.pop(attempt, [])

    def retraction(self, attempt: Attempt, event: Retracted, outermost: Attempt) -> tuple[Retracted, int | None]:
        """The retraction of an attempt that fails, and the number under which it is recorded; None: it is new."""
        borrowed = self._borrowed.get(outermost)
        if borrowed:
            borrowed[:] = [one for one in borrowed if attempt not in one.attempts]
        state = self._states.get(attempt)
        if state is None:
            return event, None
        if not state.is_valid and state.retracted_at is not None:
            return event, state.retracted_at
        since = event.since if state.first is None else min(event.since, state.first)
        return Retracted(since, event.reason, tuple(attempt.opened)), None


def _key(recorded: RecordedAttempt) -> AttemptKey:
    return recorded.path, recorded.around, recorded.event.number
