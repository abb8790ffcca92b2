"""Retractions: which events of a record were taken back later."""

from __future__ import annotations

from crewbus.events import Retracted

Span = tuple[int, int]
"""The first number that is taken back, and the number of the retraction."""


class Retractions:
    """The retractions of a record, by the scopes that they apply to."""

    def __init__(self) -> None:
        self._by_parent: dict[str, list[Span]] = {}
        self._of_all: list[Span] = []

    def add(self, event: Retracted, seq: int) -> None:
        """Add a retraction and its number."""
        span = event.since, seq
        if not event.parents:
            self._of_all.append(span)
        for parent in event.parents:
            self._by_parent.setdefault(parent, []).append(span)

    def cover(self, seq: int, parent: str | None) -> bool:
        """Whether the event of this number, which belongs to ``parent``, was taken back."""
        return any(
            since <= seq < at for spans in (self._by_parent.get(parent or "", ()), self._of_all) for since, at in spans
        )
