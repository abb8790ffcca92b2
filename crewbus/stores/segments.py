"""Segments: consecutive events of one kind and place, such as the chunks of a model call, kept as one entry."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from crewbus.events import LANDMARKS
from crewbus.stores.rows import StoredEvent

__all__ = ["Segment", "fold"]

MOST: Final = 64
"""The most events of a segment: whoever reads one of them decodes them all."""
LONGEST: Final = 2048
"""The most bytes of the data of a segment: the last one is written again with each commit that adds to it."""
TICKS: Final = 2.0**22
"""Ticks a second: times of these decades are multiples of a tick, as floats."""
_MOST_TICKS: Final = 2.0**32
_PLACE: Final = struct.Struct("<I").pack
Kind = tuple[str, str | None, str | None, int, str, int]


class Segment(NamedTuple):
    """Events that follow each other, and differ in number, time and data alone; or a single event.

    Nothing is lost: `events` returns them as they were. A store keeps the fields of `first`, with `data` in place of
    the data of that, and `length`; it gets the segment back from `load`.
    """

    first: StoredEvent
    length: int = 1
    """How many events it has."""
    texts: bytes = b""
    """The data of the first event, and what each of the others has between the beginning and the end that they all
    share, separated by newlines; empty for a single event."""
    ticks: bytes = b""
    """How much later than the first event each of the others happened, in 4 bytes."""

    @property
    def data(self) -> bytes:
        """The data of all: those of a single event as they are."""
        return self.texts + self.ticks if self.length > 1 else self.first.data

    @property
    def last(self) -> int:
        """The number of its last event."""
        return self.first.seq + self.length - 1

    @classmethod
    def load(cls, packed: StoredEvent, length: int) -> Segment:
        """The segment of ``length`` events whose `data` are those of ``packed``. Raises ValueError if they are not."""
        if length == 1:
            return cls(packed)
        at = len(packed.data) - 4 * (length - 1)
        texts, ticks = packed.data[: max(at, 0)], packed.data[max(at, 0) :]
        if length < 1 or at < 0 or texts.count(b"\n") != length - 1:
            raise ValueError(f"{len(packed.data)} bytes are not the data of {length} events")
        return cls(packed._replace(data=texts[: texts.index(b"\n")]), length, texts, ticks)

    def events(self) -> list[StoredEvent]:
        """The events."""
        first = self.first
        found = [first]
        if self.length == 1:
            return found
        run_id, seq, parent, at, source, attempt, name, version, data = first
        beginning, end = _frame(data)
        later = struct.unpack(f"<{self.length - 1}I", self.ticks)
        for number, (text, ticks) in enumerate(zip(self.texts.split(b"\n")[1:], later, strict=True), seq + 1):
            when, whole = at + ticks / TICKS, b"%b%b%b" % (beginning, text, end)
            found.append(StoredEvent(run_id, number, parent, when, source, attempt, name, version, whole))
        return found


def fold(events: Iterable[StoredEvent], last: Segment | None = None) -> list[Segment]:
    """``events``, which follow each other, in as few segments as possible; without ``last``, each once.

    ``last`` is the segment before them: it comes first, with those events that go into it.
    """
    found = list[Segment]()
    growing = None if last is None else _Growing(last)
    for event in events:
        if growing is None or not growing.add(event):
            if growing is not None:
                found.append(growing.segment())
            growing = _Growing(Segment(event))
    if growing is not None:
        found.append(growing.segment())
    return found


class _Growing:
    """A segment that is added to."""

    __slots__ = ("_at", "_before", "_beginning", "_count", "_end", "_kind", "_size", "_texts", "_ticks")

    def __init__(self, before: Segment) -> None:
        first = before.first
        self._before = before
        self._count = before.length
        self._at = first.at
        self._kind = _kind(first)
        self._texts = [before.texts or first.data]
        self._ticks = [before.ticks]
        self._size = len(self._texts[0])
        self._beginning, self._end = _frame(first.data)
        if first.name in LANDMARKS or (before.length == 1 and b"\n" in first.data):
            self._count = MOST

    def add(self, event: StoredEvent) -> bool:
        """Add an event, if it can be added."""
        data, size = event.data, self._size + len(event.data)
        if self._count >= MOST or _kind(event) != self._kind or size > LONGEST:
            return False
        ticks = (event.at - self._at) * TICKS
        if not 0.0 <= ticks < _MOST_TICKS or self._at + int(ticks) / TICKS != event.at:
            return False
        shared = len(self._beginning), len(data) - len(self._end)
        if shared[0] > shared[1] or not data.startswith(self._beginning) or not data.endswith(self._end):
            return False
        if b"\n" in data:
            return False
        self._texts.append(data[shared[0] : shared[1]])
        self._ticks.append(_PLACE(int(ticks)))
        self._count += 1
        self._size = size
        return True

    def segment(self) -> Segment:
        """What it has become."""
        if len(self._texts) == 1:
            return self._before
        length = self._before.length + len(self._texts) - 1
        return Segment(self._before.first, length, b"\n".join(self._texts), b"".join(self._ticks))


def _kind(event: StoredEvent) -> Kind:
    """What all events of a segment share."""
    return event.run_id, event.parent, event.source, event.attempt, event.name, event.version


def _frame(data: bytes) -> tuple[bytes, bytes]:
    """The beginning and the end of data that other events share if they have the same first field, as JSON."""
    at = data.find(b":") + 1
    is_text = data[at : at + 1] == b'"'
    beginning, end = data[: at + is_text], b'"}' if is_text else b"}"
    fits = at > 0 and len(data) >= len(beginning) + len(end) and data.endswith(end)
    return (beginning, end) if fits else (b"", b"")
