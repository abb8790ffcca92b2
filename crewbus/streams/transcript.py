"""The text that a stream has carried: what was retracted is out of it again."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final

from crewbus.events import Chunk, Envelope, Retracted

FOLDED: Final = 1024
"""How many texts are kept apart before they become one: each is an object of some sixty bytes."""


class Transcript:
    """The text chunks of a stream, in order."""

    __slots__ = ("_texts", "floor")

    def __init__(self) -> None:
        self._texts: Texts | None = None
        self.floor: int | None = None
        """From which number on something was taken back; None: nothing was."""

    def add(self, batch: list[Envelope]) -> None:
        """Take what the stream hands out."""
        for envelope in batch:
            event = envelope.event
            if isinstance(event, Chunk):
                if event.kind == "text":
                    if self._texts is None:
                        self._texts = Texts()
                    self._texts.add(envelope.seq, envelope.parent, event.text)
            elif isinstance(event, Retracted):
                self.floor = event.since if self.floor is None else min(self.floor, event.since)
                if self._texts is not None:
                    self._texts.retract(event)

    def text(self) -> str:
        """All of it."""
        return "" if self._texts is None else self._texts.whole()


class Texts:
    """Texts, each with its number and what it belongs to. The older ones are kept as one, to be taken apart again."""

    __slots__ = ("_folded", "_lengths", "_numbers", "_owners", "_parent", "_texts")

    def __init__(self) -> None:
        self._numbers: Final = array("q")
        self._owners: Final[list[tuple[int, str | None]]] = []
        """What they belong to, each with the place from which on: there are few, mostly one."""
        self._parent: str | None = ""
        self._texts: list[str] = []
        self._folded: Final[list[str]] = []
        self._lengths: Final = array("L")
        """Of what is folded."""

    def add(self, number: int, parent: str | None, text: str) -> None:
        """Take one more."""
        if parent != self._parent:
            self._owners.append((len(self._numbers), parent))
            self._parent = parent
        self._numbers.append(number)
        self._texts.append(text)
        if len(self._texts) >= FOLDED:
            self._fold()

    def _fold(self) -> None:
        self._folded.append("".join(self._texts))
        self._lengths.extend(map(len, self._texts))
        self._texts = []

    def _unfold(self) -> None:
        whole, at, texts = "".join(self._folded), 0, []
        for length in self._lengths:
            texts.append(whole[at : at + length])
            at += length
        self._texts[:0] = texts
        self._folded.clear()
        del self._lengths[:]

    def retract(self, event: Retracted) -> None:
        """Have what an event takes back be empty."""
        # Backwards, since what is taken back came last.
        for at in range(len(self._numbers) - 1, -1, -1):
            if self._numbers[at] < event.since:
                break
            if event.covers(self._numbers[at], self._owner_of(at)):
                if at < len(self._lengths):
                    self._unfold()
                self._texts[at - len(self._lengths)] = ""

    def whole(self) -> str:
        """All of them, one after the other."""
        return "".join((*self._folded, *self._texts))

    def _owner_of(self, at: int) -> str | None:
        return self._owners[bisect_right(self._owners, at, key=_place) - 1][1]


def _place(owner: tuple[int, str | None]) -> int:
    return owner[0]
