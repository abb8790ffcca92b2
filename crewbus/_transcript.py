"""The text that a stream has carried: what was retracted is out of it again."""

from __future__ import annotations

from array import array

from crewbus.events import Chunk, Envelope, Retracted


class Transcript:
    """The text chunks of a stream, in order, each with its number and what it belongs to."""

    __slots__ = ("_numbers", "_parents", "_texts", "floor")

    def __init__(self) -> None:
        self._numbers = array("q")
        self._parents: list[str | None] = []
        self._texts: list[str] = []
        self.floor: int | None = None
        """From which number on something was taken back; None: nothing was."""

    def add(self, batch: list[Envelope]) -> None:
        """Take what the stream hands out."""
        for envelope in batch:
            event = envelope.event
            if isinstance(event, Chunk):
                if event.kind == "text":
                    self._numbers.append(envelope.seq)
                    self._parents.append(envelope.parent)
                    self._texts.append(event.text)
            elif isinstance(event, Retracted):
                self.floor = event.since if self.floor is None else min(self.floor, event.since)
                self._retract(event)

    def _retract(self, event: Retracted) -> None:
        # Backwards, since what is taken back came last.
        for at in range(len(self._numbers) - 1, -1, -1):
            if self._numbers[at] < event.since:
                break
            if event.covers(self._numbers[at], self._parents[at]):
                self._texts[at] = ""

    def text(self) -> str:
        """All of it."""
        return "".join(self._texts)
