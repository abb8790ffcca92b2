"""Which try is which: the numbers of steps that are otherwise equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class StepKey(NamedTuple):
    """What steps have in common that are distinguished by their ordinals only."""

    path: str
    name: str
    key: str


class FailedTry(NamedTuple):
    """What a failed step had done: retracted as a whole when it is tried again."""

    since: int
    opened: tuple[str, ...]
    undo: tuple[Callable[[], object], ...]
    """What makes the steps in it be called again."""


class Ordinals:
    """Numbers the steps that have the same path, name and key. A failed step gives its number to the next try."""

    def __init__(self) -> None:
        self._next: dict[str, dict[tuple[str, str], int]] = {}
        """By path, then by name and key."""
        self._free: dict[StepKey, dict[int, FailedTry | None]] = {}

    def take(self, key: StepKey) -> tuple[int, FailedTry | None]:
        """The number of another one, and what an earlier try at it had done."""
        free = self._free.get(key)
        if free:
            ordinal = min(free)
            failed = free.pop(ordinal)
            if not free:
                del self._free[key]
            return ordinal, failed
        there = self._next.setdefault(key.path, {})
        ordinal = there.get((key.name, key.key), 0)
        there[key.name, key.key] = ordinal + 1
        return ordinal, None

    def give_back(self, key: StepKey, ordinal: int, failed: FailedTry | None = None) -> None:
        """Let the step of that number be tried again; nothing if the number was not given out yet."""
        if ordinal < self._next.get(key.path, {}).get((key.name, key.key), 0):
            free = self._free.setdefault(key, {})
            free[ordinal] = failed or free.get(ordinal)

    def forget_in(self, path: str) -> None:
        """Forget what was given out in a step that has finished: tried again, it starts from 0."""
        self._next.pop(path, None)
