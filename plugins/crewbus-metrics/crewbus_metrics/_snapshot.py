"""Snapshots: the figures of one moment, as values, as a dict and as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Events:
    """How many events there were, and how many per second: in all, and of each type by its registered name."""

    count: int
    rate: float
    counts: Mapping[str, int]
    rates: Mapping[str, float]

    @classmethod
    def of(cls, counts: Mapping[str, int], seconds: float) -> Events:
        """So many of each type, in so many seconds."""
        counts, per_second = dict(counts), 1 / seconds if seconds else 0.0
        count = sum(counts.values())
        return cls(count, count * per_second, counts, {name: n * per_second for name, n in counts.items()})


@attrs.frozen
class Timing:
    """How many runs or calls ended, how many of these failed or were cancelled, and how many seconds they took."""

    count: int
    failed: int
    cancelled: int
    min: float
    mean: float
    max: float

    def __str__(self) -> str:
        took = f"{self.min:.3f} s to {self.max:.3f} s, on average {self.mean:.3f} s"
        return f"{self.count} ended, {self.failed} failed, {self.cancelled} cancelled; {took}"


@attrs.frozen
class Snapshot:
    """The figures of one moment; ``str`` of it is the summary."""

    seconds: float
    """How long the bus has been there, or was until it closed. Rates refer to it."""
    total: Events
    """All events: the sum of `events`."""
    events: Mapping[str, Events]
    """By the name of the run that they were emitted in, "(unnamed)" and "(outside)" included."""
    runs: Mapping[str, Timing]
    """The runs that ended, by name."""
    calls: Mapping[str, Timing]
    """The calls that ended, by name."""

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return attrs.asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.total.count} events in {self.seconds:.3f} s"]
        lines += [f"  {name}: {n}, {self.total.rates[name]:.3f}/s" for name, n in self.total.counts.items()]
        lines += [f"in {name}: {of.count} events, {of.rate:.3f}/s" for name, of in self.events.items()]
        lines += [f"run {name}: {timing}" for name, timing in self.runs.items()]
        lines += [f"call {name}: {timing}" for name, timing in self.calls.items()]
        return "\n".join(lines)
