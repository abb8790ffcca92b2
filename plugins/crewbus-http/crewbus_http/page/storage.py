"""What a store holds, what it has not written yet, and what a prune would delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from crewbus import Bus, InputError, RunInfo
from crewbus.stores import LogFilter
from crewbus_http.page.query import STATES, age
from crewbus_http.page.run_list import described

_SHOWN: Final = 100


@attrs.frozen
class Prune:
    """A prune to try: give at least one of the two."""

    keep: str = ""
    """How many of the newest runs to keep."""
    older_than: str = ""
    """An age, such as ``30d``."""

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Prune:
        """Read the parameters of a URL or form."""
        return cls(given.get("keep", "").strip(), given.get("older_than", "").strip())

    def __bool__(self) -> bool:
        return bool(self.keep or self.older_than)

    def run(self, bus: Bus, *, dry_run: bool) -> list[str]:
        """Delete what it chooses, or only say which; raises `InputError` for parameters that can't be meant."""
        if self.keep and not (self.keep.isascii() and self.keep.isdecimal() and len(self.keep) < 10):
            raise InputError(f"keep={self.keep[:50]!r}: give a whole number from 0")
        keep = int(self.keep) if self.keep else None
        older_than = age(self.older_than) if self.older_than else None
        return bus.records.prune(keep, older_than, dry_run=dry_run)


@attrs.frozen
class Pruned:
    """What a dry run found."""

    count: int
    runs: list[RunInfo]
    """The newest of them."""


@attrs.frozen
class Storage:
    """A store at one moment."""

    store: str
    runs: int
    events: int
    """In all records, those that forks share with their parents once for each."""
    states: dict[str, int]
    """By state: how many runs."""
    backlog_events: int
    backlog_bytes: int
    backlog_seconds: float
    oldest: float | None
    """When the oldest run began."""


def measure(bus: Bus) -> Storage:
    """Read what the store holds."""
    store = bus.store
    states = dict.fromkeys(STATES, 0)
    runs = events = 0
    oldest = None
    for summary in store.find(LogFilter()):
        states[summary.state] += 1
        runs += 1
        events += summary.info.last + 1
        oldest = summary.begun
    backlog = store.backlog()
    return Storage(repr(store), runs, events, states, backlog.events, backlog.bytes, backlog.seconds, oldest)


def try_prune(bus: Bus, prune: Prune) -> Pruned:
    """What a prune would delete now."""
    chosen = prune.run(bus, dry_run=True)
    return Pruned(len(chosen), described(bus, chosen[:_SHOWN]))
