"""Retractions: which events of a record were taken back later."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from crewbus._util import levels
from crewbus.events import Retracted, RunResumed


class Span(NamedTuple):
    """What one retraction takes back of a scope."""

    since: int
    """The first number."""
    at: int
    """The number of the retraction."""
    began: int | None
    """Where the attempt began whose failure retracted it; None: anything else did."""

    def keeps(self, later: Span) -> bool:
        """Whether what is retracted here is repeated with its attempt, though a ``later`` retraction covers it too."""
        return self.began is not None and self.at < later.at and self.began < later.since


class Retractions:
    """The retractions of a record, by the scopes that they apply to."""

    def __init__(self) -> None:
        self._by_parent: dict[str, list[Span]] = {}
        self._of_all: list[Span] = []

    def add(self, event: Retracted, seq: int, *, began: int | None = None) -> None:
        """Add a retraction and its number; ``began``: where the attempt began whose failure it is."""
        span = Span(event.since, seq, began)
        if not event.parents:
            self._of_all.append(span)
        for parent in event.parents:
            self._by_parent.setdefault(parent, []).append(span)

    def first(self, seq: int, parent: str | None) -> Span | None:
        """The first retraction of the event of this number, which belongs to ``parent``; None: it is valid."""
        return min(self._covering(seq, parent), key=lambda span: span.at, default=None)

    def cover(self, seq: int, parent: str | None) -> bool:
        """Whether the event of this number, which belongs to ``parent``, was taken back."""
        return self.first(seq, parent) is not None

    def void(self, seq: int, parent: str | None) -> bool:
        """Whether that event counts for nothing, as if it had not happened.

        What an attempt took back as it failed is repeated with the attempt, unless that is void too.
        """
        spans = self._covering(seq, parent)
        return any(
            span.began is None and (span in self._of_all or not any(one.keeps(span) for one in spans)) for span in spans
        )

    def keep(self, seq: int, parent: str | None, since: int) -> bool:
        """Whether an attempt that began before number ``since`` took that event back, which is repeated with it."""
        return any(span.began is not None and span.began < since for span in self._covering(seq, parent))

    def _covering(self, seq: int, parent: str | None) -> list[Span]:
        spans = [*self._of_all]
        for scope in levels(parent or ""):
            spans += self._by_parent.get(scope, ())
        return [span for span in spans if span.since <= seq < span.at]


class DiscardedRanges:
    """The numbers that resumes from a checkpoint discarded: those between the checkpoint and the resume."""

    def __init__(self) -> None:
        self._ranges: list[range] = []
        """Disjoint, in order."""

    def add(self, event: RunResumed, seq: int) -> None:
        """Add a resume, numbered above those before it."""
        start = event.at + 1
        while self._ranges and self._ranges[-1].stop >= start:
            start = min(start, self._ranges.pop().start)
        if start < seq:
            self._ranges.append(range(start, seq))

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __contains__(self, seq: int) -> bool:
        at = bisect_right(self._ranges, seq, key=lambda numbers: numbers.start) - 1
        return at >= 0 and seq in self._ranges[at]
