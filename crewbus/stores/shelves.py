"""Shelves: the logs of a store in memory by what they are looked up by."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Final

from crewbus.stores.listing import LogFilter

__all__ = ["ALL", "Shelf", "Shelves", "candidates", "labels"]

Shelf = tuple[str, ...]
"""What the logs on a shelf have in common."""
ALL: Final[Shelf] = ("log",)


def labels(name: str | None, tags: Iterable[tuple[str, str]]) -> list[Shelf]:
    """The shelves for the name of a log and for its tags."""
    return [*([] if name is None else [("name", name)]), *(("tag", *tag) for tag in tags)]


def candidates(query: LogFilter) -> list[list[Shelf]]:
    """The shelves in which all logs that match are, as alternatives, each of which is enough by itself."""
    found = [[shelf] for shelf in labels(query.name, query.tags.items())]
    if query.states is not None:
        found.append([("state", state) for state in sorted(query.states)])
    return found or [[ALL]]


class Shelves:
    """The numbers of logs by shelf. A log that was made later has a greater number."""

    def __init__(self) -> None:
        self._numbers: dict[Shelf, list[int]] = {}

    def put(self, number: int, *shelves: Shelf) -> None:
        """Put a log on shelves, unless it is there: an interrupted call may have put it."""
        for shelf in shelves:
            numbers = self._numbers.setdefault(shelf, [])
            at = bisect_left(numbers, number)
            if numbers[at : at + 1] != [number]:
                numbers.insert(at, number)

    def take(self, number: int, *shelves: Shelf) -> None:
        """Take a log from shelves, if it is there."""
        for shelf in shelves:
            numbers = self._numbers.get(shelf, [])
            at = bisect_left(numbers, number)
            if numbers[at : at + 1] == [number]:
                del numbers[at]
            if not numbers:
                self._numbers.pop(shelf, None)

    def on(self, shelf: Shelf) -> list[int]:
        """The logs on a shelf, the oldest first."""
        return [*self._numbers.get(shelf, ())]

    def count(self, shelf: Shelf) -> int:
        """How many logs are on a shelf."""
        return len(self._numbers.get(shelf, ()))

    def older(self, shelf: Shelf, number: int) -> int | None:
        """The next older log on a shelf."""
        numbers = self._numbers.get(shelf, [])
        at = bisect_left(numbers, number)
        return numbers[at - 1] if at else None

    def newer(self, shelf: Shelf, number: int) -> int | None:
        """The next newer log on a shelf."""
        numbers = self._numbers.get(shelf, [])
        at = bisect_left(numbers, number + 1)
        return numbers[at] if at < len(numbers) else None

    def newest_first(self, query: LogFilter) -> Iterator[int]:
        """Iterate over the logs that may match, the newest first. The shelves may change meanwhile."""
        fewest = min(candidates(query), key=lambda shelves: sum(map(self.count, shelves)))
        last = None
        for number in merge(*map(self._descending, fewest), reverse=True):
            if number != last:  # it may have changed shelves meanwhile
                yield number
            last = number

    def oldest_first(self, shelves: Iterable[Shelf]) -> Iterator[int]:
        """Iterate over the logs that are on one of these shelves, the oldest first."""
        return merge(*map(self._ascending, shelves))

    def _ascending(self, shelf: Shelf) -> Iterator[int]:
        number = self.newer(shelf, -1)
        while number is not None:
            yield number
            number = self.newer(shelf, number)

    def _descending(self, shelf: Shelf) -> Iterator[int]:
        number = self.older(shelf, sys.maxsize)
        while number is not None:
            yield number
            number = self.older(shelf, number)
