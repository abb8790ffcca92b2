"""Retractions: what a record holds that was taken back later."""

from __future__ import annotations

from crewbus.events import Retracted

Taken = tuple[int, int]
"""From which number on something was taken back, and by the event of which number."""


class Retractions:
    """The retractions of a record, found by what they take back."""

    def __init__(self) -> None:
        self._by_parent: dict[str, list[Taken]] = {}
        self._of_all: list[Taken] = []

    def add(self, event: Retracted, seq: int) -> None:
        """Take note of one, and of its number."""
        taken = event.since, seq
        if not event.parents:
            self._of_all.append(taken)
        for parent in event.parents:
            self._by_parent.setdefault(parent, []).append(taken)

    def cover(self, seq: int, parent: str | None) -> bool:
        """Whether what has this number, and belongs to ``parent``, was taken back."""
        return any(
            since <= seq < at for taken in (self._by_parent.get(parent or "", ()), self._of_all) for since, at in taken
        )
