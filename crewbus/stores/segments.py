"""Segments: consecutive events of one kind and place, such as the chunks of a model call, kept as one entry."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
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
_FIRST_VALUE: Final = re.compile(rb'\{"(?:[^"\\]|\\.)*":("(?:[^"\\]|\\.)*"|[^][{}",\\]*)', re.DOTALL)
_PLACE: Final = struct.Struct("<I").pack
Kind = tuple[str, str | None, str | None, int, str, int]


class Frame(NamedTuple):
    """With what the data of all events of a segment begin and end."""

    beginning: bytes = b""
    end: bytes = b""

    def fits(self, data: bytes) -> bool:
        """Whether data begin and end so."""
        beginning, end = self
        return len(data) >= len(beginning) + len(end) and data.startswith(beginning) and data.endswith(end)

    def inner(self, data: bytes) -> bytes:
        """What is between."""
        return data[len(self.beginning) : len(data) - len(self.end)]


class Segment(NamedTuple):
    """Events that follow each other, and differ in number, time and data alone; or a single event.

    Nothing is lost: `events` returns them as they were. A store keeps the fields of `first`, with `data` in place of
    the data of that, and `length`; it gets the segment back from `load`.
    """

    first: StoredEvent
    length: int = 1
    """How many events it has."""
    frame: Frame = Frame()
    """What is the same in the data of all; empty for a single event."""
    texts: bytes = b""
    """What is between, of each event, separated by newlines; empty for a single event."""
    ticks: bytes = b""
    """How much later than the first event each of the others happened, in 4 bytes."""

    @property
    def data(self) -> bytes:
        """The data of all: those of a single event as they are."""
        if self.length == 1:
            return self.first.data
        return b"%b\n%b\n%b%b" % (*self.frame, self.texts, self.ticks)

    @property
    def last(self) -> int:
        """The number of its last event."""
        return self.first.seq + self.length - 1

    @classmethod
    def load(cls, packed: StoredEvent, length: int) -> Segment:
        """The segment of ``length`` events whose `data` are those of ``packed``. Raises ValueError if they are not."""
        if length == 1:
            return cls(packed)
        data, at = packed.data, len(packed.data) - 4 * (length - 1)
        beginning, _, rest = data[: max(at, 0)].partition(b"\n")
        end, _, texts = rest.partition(b"\n")
        if length < 1 or at < 0 or texts.count(b"\n") != length - 1:
            raise ValueError(f"{len(data)} bytes are not the data of {length} events")
        first = b"%b%b%b" % (beginning, texts.partition(b"\n")[0], end)
        return cls(packed._replace(data=first), length, Frame(beginning, end), texts, data[at:])

    def events(self) -> list[StoredEvent]:
        """The events."""
        first = self.first
        found = [first]
        if self.length == 1:
            return found
        run_id, seq, parent, at, source, attempt, name, version, _ = first
        beginning, end = self.frame
        later = struct.unpack(f"<{self.length - 1}I", self.ticks)
        for number, (text, ticks) in enumerate(zip(self.texts.split(b"\n")[1:], later, strict=True), seq + 1):
            when, data = at + ticks / TICKS, b"%b%b%b" % (beginning, text, end)
            found.append(StoredEvent(run_id, number, parent, when, source, attempt, name, version, data))
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

    __slots__ = ("_at", "_before", "_frame", "_kind", "_left", "_room", "_texts", "_ticks")

    def __init__(self, before: Segment) -> None:
        first = before.first
        self._before = before
        self._at = first.at
        self._kind = _kind(first)
        self._frame = before.frame if before.length > 1 else None
        self._texts = list[bytes]()
        self._ticks = list[bytes]()
        self._left = MOST - before.length
        self._room = LONGEST - len(before.texts or first.data)
        if first.name in LANDMARKS or (self._frame is None and b"\n" in first.data):
            self._left = 0

    def add(self, event: StoredEvent) -> bool:
        """Add an event, if it can be added."""
        data = event.data
        if not self._left or len(data) > self._room or _kind(event) != self._kind or b"\n" in data:
            return False
        ticks = (event.at - self._at) * TICKS
        if not 0.0 <= ticks < _MOST_TICKS or self._at + int(ticks) / TICKS != event.at:
            return False
        if self._frame is None:
            self._frame = next(frame for frame in _frames(self._before.first.data) if frame.fits(data))
        elif not self._frame.fits(data):
            return False
        text = self._frame.inner(data)
        self._texts.append(text)
        self._ticks.append(_PLACE(int(ticks)))
        self._left -= 1
        self._room -= len(text) + 1
        return True

    def segment(self) -> Segment:
        """What it has become."""
        if not self._texts or self._frame is None:
            return self._before
        first, before = self._before.first, self._before
        texts = before.texts if before.length > 1 else self._frame.inner(first.data)
        return Segment(
            first,
            before.length + len(self._texts),
            self._frame,
            b"\n".join((texts, *self._texts)),
            b"".join((before.ticks, *self._ticks)),
        )


def _kind(event: StoredEvent) -> Kind:
    """What all events of a segment share."""
    return event.run_id, event.parent, event.source, event.attempt, event.name, event.version


def _frames(data: bytes) -> Iterator[Frame]:
    """What other data may share with these: all but the value of the first field, as JSON; less; and nothing."""
    value = _FIRST_VALUE.match(data)
    if value is not None:
        quote = data[value.start(1) : value.start(1) + 1] == b'"'
        beginning = data[: value.start(1) + quote]
        yield Frame(beginning, data[value.end(1) - quote :])
        if data.endswith(b"}"):
            yield Frame(beginning, b"}")
    yield Frame()
