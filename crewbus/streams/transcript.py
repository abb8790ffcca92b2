"""Transcripts: the text of a stream, without what was retracted."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final

from crewbus.events import Chunk, Dropped, Envelope, Retracted
from crewbus.exceptions import ConsumptionError

FOLDED: Final = 1024
"""How many texts are kept as objects, of some sixty bytes each, before they are joined."""


class Transcript:
    """The text chunks of a stream, in order."""

    __slots__ = ("_drops", "_texts", "floor")

    def __init__(self) -> None:
        self._drops: list[tuple[int, str | None, int]] | None = None
        """The number, the parent and the count of what was dropped and not retracted later."""
        self._texts: Texts | None = None
        self.floor: int | None = None
        """The lowest number from which a retraction applies; None: nothing was retracted."""

    def add(self, batch: list[Envelope]) -> None:
        """Add the frames that the stream returns to its consumer."""
        for envelope in batch:
            event = envelope.event
            if isinstance(event, Chunk):
                if event.kind == "text":
                    texts = self._texts
                    if texts is None:
                        texts = self._texts = Texts()
                    texts.add(envelope.seq, envelope.parent, event.text)
            elif isinstance(event, Dropped):
                self._drops = self._drops or []
                self._drops.append((envelope.seq, envelope.parent, event.count))
            elif isinstance(event, Retracted):
                self.floor = event.since if self.floor is None else min(self.floor, event.since)
                if self._texts is not None:
                    self._texts.retract(event)
                if self._drops is not None:
                    self._drops = [drop for drop in self._drops if not event.covers(drop[0], drop[1])]

    def text(self) -> str:
        """The text so far. Raises `ConsumptionError` if frames were dropped, so that it would have gaps."""
        if self._drops:
            raise ConsumptionError(
                f"{sum(count for _, _, count in self._drops)} frames were dropped, so the text has gaps: consume "
                "faster, raise bound=, or choose slow='block' or 'coalesce'"
            )
        return "" if self._texts is None else self._texts.whole()

    def shown(self) -> str:
        """The text so far, also where frames were dropped, which it says."""
        dropped = sum(count for _, _, count in self._drops or ())
        text = "" if self._texts is None else self._texts.whole()
        return f"{text}\n({dropped} frames were dropped)" if dropped else text


class Texts:
    """Texts, each with its number and its parent. Older ones are joined, and split again for a retraction."""

    __slots__ = ("_is_ordered", "_joined", "_last", "_lengths", "_numbers", "_owners", "_parent", "_texts")

    def __init__(self) -> None:
        self._numbers: Final = array("q")
        self._owners: Final[list[tuple[int, str | None]]] = []
        """The parents, each with the index of its first text: there are few, mostly one."""
        self._is_ordered = True
        self._parent: str | None = ""
        self._last = -2  # the number of the last text
        self._texts: list[str] = []
        self._joined: Final[list[str]] = []
        self._lengths: Final = array("L")
        """The lengths of the joined texts."""

    def add(self, number: int, parent: str | None, text: str) -> None:
        """Add one text."""
        if parent != self._parent:
            self._owners.append((len(self._numbers), parent))
            self._parent = parent
        if number <= self._last:
            self._is_ordered = False
        self._last = number
        self._numbers.append(number)
        texts = self._texts
        texts.append(text)
        if len(texts) >= FOLDED:
            self._join()

    def _join(self) -> None:
        self._joined.append("".join(self._texts))
        self._lengths.extend(map(len, self._texts))
        self._texts = []

    def _split(self) -> None:
        whole, at, texts = "".join(self._joined), 0, []
        for length in self._lengths:
            texts.append(whole[at : at + length])
            at += length
        self._texts[:0] = texts
        self._joined.clear()
        del self._lengths[:]

    def retract(self, event: Retracted) -> None:
        """Empty the texts that ``event`` retracts."""
        # Backwards, since what is retracted came last; a resumed run may repeat its record in another order.
        for at in range(len(self._numbers) - 1, -1, -1):
            if self._numbers[at] < event.since and self._is_ordered:
                break
            if event.covers(self._numbers[at], self._owner_of(at)):
                if at < len(self._lengths):
                    self._split()
                self._texts[at - len(self._lengths)] = ""

    def whole(self) -> str:
        """All texts, joined."""
        return "".join((*self._joined, *self._texts))

    def _owner_of(self, at: int) -> str | None:
        return self._owners[bisect_right(self._owners, at, key=_first_index) - 1][1]


def _first_index(owner: tuple[int, str | None]) -> int:
    return owner[0]
