"""Homes: what a recorded run or step counts of the steps that are called in it."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakValueDictionary


class StepKey(NamedTuple):
    """What equal steps in one home have in common: their ordinals distinguish them."""

    name: str
    key: str


class Tried(NamedTuple):
    """What a try at a step left behind: retracted as a whole when the step is tried again."""

    since: int
    parents: tuple[str, ...]
    finished_at: int | None = None
    """The number of its end, if it finished and only its caller did not get the result."""


class Home:
    """Counts the steps called in a run or step.

    A step that ended without an outcome, as when it was cancelled, gives its ordinal to the next equal one.
    """

    __slots__ = ("_counts", "_unfinished", "busy", "failed", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        """What distinguishes it from other homes in the tree: a digest, or "" for the root run."""
        self.busy: WeakValueDictionary[StepKey, Any] = WeakValueDictionary()
        """The steps in progress, until their result is on disk."""
        self.failed: dict[StepKey, Tried] = {}
        """By key: what the last of equal steps did before it failed, as far as that still counts."""
        self._counts: dict[StepKey, int] = {}
        self._unfinished: dict[StepKey, dict[int, Tried | None]] = {}

    def steps_in_progress(self) -> list[Any]:
        """The steps in progress, except those that only wait for the disk."""
        return [step for step in self.busy.values() if not step.ended]

    def take(self, key: StepKey) -> tuple[int, Tried | None]:
        """The ordinal of the next step with this key, and what an earlier try at it left behind."""
        unfinished = self._unfinished.get(key)
        if unfinished:
            ordinal = min(unfinished)
            tried = unfinished.pop(ordinal)
            if not unfinished:
                del self._unfinished[key]
            return ordinal, tried
        ordinal = self._counts.get(key, 0)
        self._counts[key] = ordinal + 1
        return ordinal, None

    def give_back(self, key: StepKey, ordinal: int, tried: Tried | None = None) -> None:
        """Let the next step with this key be the one of this ordinal, which had no outcome."""
        unfinished = self._unfinished.setdefault(key, {})
        unfinished[ordinal] = tried or unfinished.get(ordinal)
