"""What a run or step that is repeated has not done again yet."""

from __future__ import annotations

from collections import deque

import attrs

from crewbus.durability.nested_runs import RunKey
from crewbus.records import Path, RecordedAttempt, RecordedCall, RecordedHome, is_generated

AttemptKey = tuple[Path, RecordedAttempt | None, int]
"""The calls around an attempt, the attempt that it is nested in directly, and its number."""
CallKey = tuple[Path, RecordedAttempt | None]
"""The names of a call and of those around it, and the attempt that it is made in."""


@attrs.define(eq=False)
class ReplayedHome:
    """What a run or step that is repeated has not done again yet."""

    recorded: RecordedHome
    calls: dict[CallKey, deque[RecordedCall]]
    attempts: dict[AttemptKey, deque[RecordedAttempt]]
    runs: dict[RunKey, deque[RecordedHome]]
    expected: dict[RecordedHome, None]
    """The steps that have an outcome and were not called again yet."""
    open: dict[RecordedHome, None]
    """The steps that have none, and were not called again yet."""

    @classmethod
    def of(cls, recorded: RecordedHome, after: int = -1) -> ReplayedHome:
        """Of a recorded home, all that started after number ``after`` is still to be done."""
        made = cls(recorded, {}, {}, {}, {}, {})
        for call in (one for one in recorded.holds.calls if one.start > after):
            made.calls.setdefault((call.path, call.attempt), deque()).append(call)
        for attempt in (one for one in recorded.holds.attempts if one.start > after):
            made.attempts.setdefault((attempt.path, attempt.around, attempt.event.number), deque()).append(attempt)
        for child in (one for one in recorded.holds.children if one.start > after):
            if not child.is_step:
                chosen_id = None if is_generated(child.run_id) else child.run_id
                made.runs.setdefault(RunKey(child.name or None, chosen_id, child.key), deque()).append(child)
            elif child.has_outcome and not child.rejected:
                made.expected[child] = None
            elif not child.rejected:
                made.open[child] = None
        return made

    def is_pending(self) -> bool:
        """Whether anything that is recorded in it was not done again yet."""
        waiting = (*self.calls.values(), *self.attempts.values(), *self.runs.values())
        return bool(self.expected or self.open) or any(waiting)

    def next_inline(self) -> RecordedHome | None:
        """The next step that its own thread or task had called, and has not called again yet."""
        steps = (one for one in self.expected if one.step is not None and one.step.inline)
        return next(steps, None)
