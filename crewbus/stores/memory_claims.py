"""The logs of a memory store that may be claimed, and those that are held, by their tags."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping

from crewbus.stores.claims import Claim, Room
from crewbus.stores.memory_log import NOWHERE, MemoryLog, Place
from crewbus.stores.shelves import Shelf, Shelves

__all__ = ["ClaimIndex"]


class ClaimIndex:
    """Finds the logs for a claim without looking at those that have ended, are held or wait."""

    def __init__(self) -> None:
        self._shelves = Shelves()
        self._waiting: list[tuple[float, int]] = []
        """When logs are due, and their numbers, sorted."""

    def update(self, log: MemoryLog) -> None:
        """Note the state of a log. An interrupted call can be repeated."""
        place = log.current_place()
        if place != log.place:
            self._remove(log)  # first, and from everywhere: an interrupted call may have put it
            self._put(log, place)
            log.place = place

    def remove(self, log: MemoryLog) -> None:
        """Forget a log."""
        self._remove(log)
        log.place = NOWHERE

    def find(self, claim: Claim, now: float, logs: Mapping[int, MemoryLog]) -> list[MemoryLog]:
        """The logs that a claim takes at this time, from those with these numbers."""
        self._wake(now, logs)
        room = Room(claim.caps, lambda tag, value: self._shelves.count(("held", tag, value)))
        found: list[MemoryLog] = []
        for number in self._shelves.oldest_first(self._fewest(claim)):
            if len(found) >= claim.limit:
                break
            log = logs[number]
            if claim.accepts(log.tags) and room.admits(log.tags):
                room.add(log.tags)
                found.append(log)
        return found

    def _wake(self, now: float, logs: Mapping[int, MemoryLog]) -> None:
        """Have those be ready that are due."""
        while self._waiting and self._waiting[0][0] <= now:
            log = logs.get(self._waiting[0][1])
            if log is not None and log.current_place() == log.place:
                self._put(log, Place("ready"))
                log.place = Place("ready")
            del self._waiting[0]

    def _fewest(self, claim: Claim) -> list[Shelf]:
        """The shelves in which all logs are that match."""
        alternatives: list[list[Shelf]] = [
            [("ready", tag, value) for value in values] for tag, values in claim.tags.items()
        ]
        return min(alternatives, key=lambda shelves: sum(map(self._shelves.count, shelves)), default=[("ready",)])

    def _put(self, log: MemoryLog, place: Place) -> None:
        if place.kind == "waiting":
            entry = place.due, log.number
            at = bisect_left(self._waiting, entry)
            if self._waiting[at : at + 1] != [entry]:
                insort(self._waiting, entry)
        elif place.kind:
            self._shelves.put(log.number, *_shelves(log, place.kind))

    def _remove(self, log: MemoryLog) -> None:
        for kind in ("held", "ready"):
            self._shelves.take(log.number, *_shelves(log, kind))
        if log.place.kind == "waiting":
            entry = log.place.due, log.number
            at = bisect_left(self._waiting, entry)
            if self._waiting[at : at + 1] == [entry]:
                del self._waiting[at]


def _shelves(log: MemoryLog, kind: str) -> list[Shelf]:
    return [(kind,), *((kind, *tag) for tag in log.tags.items())]
