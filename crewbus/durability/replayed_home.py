"""What a run or step that is repeated has not done again yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import attrs

from crewbus.durability.nested_runs import RunKey
from crewbus.records import Path, RecordedAttempt, RecordedCall, RecordedHome, is_generated

AttemptKey = tuple[Path, RecordedAttempt | None, int]
"""The calls around an attempt, the attempt that it is nested in directly, and its number."""
CallKey = tuple[Path, RecordedAttempt | None]
"""The names of a call and of those around it, and the attempt that it is made in."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Waiting(Generic[K, T]):
    """The recorded scopes of one kind that stand for none yet, by what they are equal in, in order."""

    def __init__(self) -> None:
        self._by_key: Final[dict[K, deque[T]]] = {}
        self._given_back: Final[set[T]] = set()

    def add(self, key: K, one: T) -> None:
        """Add the next one."""
        self._by_key.setdefault(key, deque()).append(one)

    def claim(self, key: K) -> T | None:
        """Take the first one of this key; None: there is none."""
        waiting = self._by_key.get(key)
        return waiting.popleft() if waiting else None

    def take(self, key: K, one: T) -> bool:
        """Take this one. Returns whether it was waiting."""
        waiting = self._by_key.get(key, ())
        if one not in waiting:
            return False
        self._by_key[key].remove(one)
        return True

    def give_back(self, key: K, one: T) -> None:
        """Return one that was claimed, to the front: another scope may claim it, or none."""
        self._by_key.setdefault(key, deque()).appendleft(one)
        self._given_back.add(one)

    def is_pending(self) -> bool:
        """Whether any of them was never claimed."""
        return any(one not in self._given_back for waiting in self._by_key.values() for one in waiting)


@attrs.define(eq=False)
class ReplayedHome:
    """What a run or step that is repeated has not done again yet."""

    recorded: RecordedHome
    calls: Waiting[CallKey, RecordedCall]
    attempts: Waiting[AttemptKey, RecordedAttempt]
    runs: Waiting[RunKey, RecordedHome]
    expected: dict[RecordedHome, None]
    """The steps that have an outcome and were not called again yet."""
    open: dict[RecordedHome, None]
    """The steps that have none, and were not called again yet."""

    @classmethod
    def of(cls, recorded: RecordedHome, after: int = -1) -> ReplayedHome:
        """Of a recorded home, all that started after number ``after`` is still to be done."""
        made = cls(recorded, Waiting(), Waiting(), Waiting(), {}, {})
        for call in (one for one in recorded.holds.calls if one.start > after):
            made.calls.add((call.path, call.attempt), call)
        for attempt in (one for one in recorded.holds.attempts if one.start > after):
            made.attempts.add((attempt.path, attempt.around, attempt.event.number), attempt)
        for child in (one for one in recorded.holds.children if one.start > after):
            if not child.is_step:
                chosen_id = None if is_generated(child.run_id) else child.run_id
                made.runs.add(RunKey(child.name or None, chosen_id, child.key), child)
            elif child.has_outcome and not child.rejected:
                made.expected[child] = None
            elif not child.rejected:
                made.open[child] = None
        return made

    def is_pending(self) -> bool:
        """Whether anything that is recorded in it was not done again yet."""
        waiting = (self.calls, self.attempts, self.runs)
        return bool(self.expected or self.open) or any(one.is_pending() for one in waiting)

    def next_inline(self) -> RecordedHome | None:
        """The next step that its own thread or task had called, and has not called again yet."""
        steps = (one for one in self.expected if one.step is not None and one.step.inline)
        return next(steps, None)
