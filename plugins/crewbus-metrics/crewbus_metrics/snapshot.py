"""Snapshots: the figures at one moment, as values, as a dict and as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from crewbus.stores import Backlog


@attrs.frozen
class Events:
    """The number of events and their rate per second, in total and by the registered name of their type."""

    count: int
    rate: float
    counts: Mapping[str, int]
    rates: Mapping[str, float]

    @classmethod
    def of(cls, counts: Mapping[str, int], seconds: float) -> Events:
        """From the number of events of each type, in a number of seconds."""
        counts, per_second = dict(counts), 1 / seconds if seconds else 0.0
        count = sum(counts.values())
        return cls(count, count * per_second, counts, {name: n * per_second for name, n in counts.items()})


@attrs.frozen
class Timing:
    """The number of runs or calls that ended, failed or were cancelled, and their durations in seconds."""

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
    """The figures at one moment; ``str(snapshot)`` is the summary."""

    seconds: float
    """The lifetime of the bus until now, or until it closed. Rates refer to it."""
    total: Events
    """All events, the sum of `events`."""
    events: Mapping[str, Events]
    """Events by the name of their run, including "(unnamed)" and "(outside)"."""
    runs: Mapping[str, Timing]
    """Ended runs by name."""
    calls: Mapping[str, Timing]
    """Ended calls by name."""
    backlog: Backlog = attrs.field(factory=Backlog)
    """What the store of the bus has accepted and not written yet."""

    def as_dict(self) -> dict[str, Any]:
        """The snapshot as a dict, ready for JSON."""
        return attrs.asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.total.count} events in {self.seconds:.3f} s"]
        lines += [f"  {name}: {n}, {self.total.rates[name]:.3f}/s" for name, n in self.total.counts.items()]
        lines += [f"in {name}: {of.count} events, {of.rate:.3f}/s" for name, of in self.events.items()]
        lines += [f"run {name}: {timing}" for name, timing in self.runs.items()]
        lines += [f"call {name}: {timing}" for name, timing in self.calls.items()]
        if self.backlog.events:
            waiting = self.backlog
            lines.append(f"{waiting.events} events wait to be written, {waiting.seconds:.3f} s behind")
        return "\n".join(lines)
