"""Segments: consecutive events of one kind and place, such as the chunks of a model call, kept as one entry."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from crewbus.events import LANDMARKS
from crewbus.stores.rows import StoredEvent

__all__ = ["Segment", "fold"]

MOST: Final = 64
"""The most events of a segment: a reader of one event decodes the whole segment."""
LONGEST: Final = 2048
"""The most bytes of the data of a segment: the last one is written again with each commit that adds to it."""
TICKS: Final = 2.0**22
"""Ticks a second: times of these decades are multiples of a tick, as floats."""
_MOST_TICKS: Final = 2.0**32
_FIRST_VALUE: Final = re.compile(rb'\{"(?:[^"\\]|\\.)*":("(?:[^"\\]|\\.)*"|[^][{}",\\]*)', re.DOTALL)
_TIME: Final = struct.Struct("<I").pack
Frame = tuple[bytes, bytes]
State = tuple[int, Frame, bytes, bytes]
"""What a segment was at some time: how many events it had, and their data."""


class Segment:
    """Events that follow each other, and differ in number, time and data alone; a single event, to begin with.

    Nothing is lost: `events` returns them as they were. A store keeps the fields of `first`, with `data` in place of
    the data of that, and `length`; it gets the segment back from `load`.
    """

    __slots__ = ("_frame", "_texts", "_ticks", "first", "length")

    def __init__(self, first: StoredEvent) -> None:
        self.first = first
        """The first event."""
        self.length = 1
        """How many events it has."""
        self._frame: Frame = b"", b""
        """With what the data of all events begin and end; of a single event, nothing yet."""
        self._texts = b""
        """What is between, of each event, separated by newlines."""
        self._ticks = b""
        """How much later than the first event each of the others happened, in 4 bytes."""

    @property
    def data(self) -> bytes:
        """The data of all: those of a single event as they are."""
        if self.length == 1:
            return self.first.data
        return b"%b\n%b\n%b%b" % (*self._frame, self._texts, self._ticks)

    @property
    def last(self) -> int:
        """The number of its last event."""
        return self.first.seq + self.length - 1

    @property
    def at(self) -> float:
        """When its last event happened."""
        if self.length == 1:
            return self.first.at
        (ticks,) = struct.unpack("<I", self._ticks[-4:])
        return float(self.first.at + ticks / TICKS)

    @property
    def state(self) -> State:
        """What it is now."""
        return self.length, self._frame, self._texts, self._ticks

    def restore(self, state: State) -> None:
        """Make it what it was."""
        self.length, self._frame, self._texts, self._ticks = state

    def tail(self, state: State) -> bytes:
        """The data of the events that were added since it was so, which was of two or more: `extend` adds them."""
        _, _, texts, ticks = state
        return self._texts[len(texts) :] + self._ticks[len(ticks) :]

    def extend(self, count: int, tail: bytes) -> None:
        """Add ``count`` events, by their `tail`. Raises ValueError if it is not one."""
        at = len(tail) - 4 * count
        texts = tail[: max(at, 0)]
        if self.length < 2 or count < 1 or not texts.startswith(b"\n") or texts.count(b"\n") != count:
            raise ValueError(f"{len(tail)} bytes are not the data of {count} more events")
        self._texts += texts
        self._ticks += tail[at:]
        self.length += count

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
        loaded = cls(packed._replace(data=b"%b%b%b" % (beginning, texts.partition(b"\n")[0], end)))
        loaded.length, loaded._frame, loaded._texts, loaded._ticks = length, (beginning, end), texts, data[at:]
        return loaded

    def events(self) -> list[StoredEvent]:
        """The events."""
        first = self.first
        found = [first]
        if self.length == 1:
            return found
        run_id, seq, parent, at, source, attempt, name, version, _ = first
        beginning, end = self._frame
        later = struct.unpack(f"<{self.length - 1}I", self._ticks)
        for number, (text, ticks) in enumerate(zip(self._texts.split(b"\n")[1:], later, strict=True), seq + 1):
            when, data = at + ticks / TICKS, b"%b%b%b" % (beginning, text, end)
            found.append(StoredEvent(run_id, number, parent, when, source, attempt, name, version, data))
        return found

    def add(self, event: StoredEvent) -> bool:
        """Add the event that follows; returns False if that can't be in this segment."""
        run_id, _, parent, at, source, attempt, name, version, data = event
        first = self.first
        if (
            parent != first.parent
            or name != first.name
            or run_id != first.run_id
            or attempt != first.attempt
            or source != first.source
            or version != first.version
            or b"\n" in data
            or self.length >= MOST
        ):
            return False
        ticks = (at - first.at) * TICKS
        if not 0.0 <= ticks < _MOST_TICKS or first.at + int(ticks) / TICKS != at:
            return False
        if self.length == 1:
            return self._begin(data, int(ticks))
        beginning, end = self._frame
        stop = len(data) - len(end)
        if len(beginning) > stop or not data.startswith(beginning) or not data.endswith(end):
            return False
        if len(self._texts) + len(data) > LONGEST:
            return False
        self._texts += b"\n" + data[len(beginning) : stop]
        self._ticks += _TIME(int(ticks))
        self.length += 1
        return True

    def _begin(self, data: bytes, ticks: int) -> bool:
        """Add the second event."""
        first = self.first.data
        if self.first.name in LANDMARKS or b"\n" in first or len(first) + len(data) > LONGEST:
            return False
        beginning, end = self._frame = next(frame for frame in _frames(first) if _fits(frame, data))
        inner = [one[len(beginning) : len(one) - len(end)] for one in (first, data)]
        self._texts, self._ticks, self.length = b"\n".join(inner), _TIME(ticks), 2
        return True


def fold(events: Iterable[StoredEvent], last: Segment | None = None) -> list[Segment]:
    """Put ``events``, which follow each other, into as few segments as possible, and return these.

    ``last`` is the segment before them: it is the first of those that are returned, if an event was added to it.
    """
    found, growing = list[Segment](), last
    for event in events:
        if growing is None or not growing.add(event):
            growing = Segment(event)
            found.append(growing)
        elif not found:
            found.append(growing)
    return found


def _frames(data: bytes) -> Iterator[Frame]:
    """What other data may share with these: all but the value of the first field, as JSON; less; and nothing."""
    value = _FIRST_VALUE.match(data)
    if value is not None:
        quote = data[value.start(1) : value.start(1) + 1] == b'"'
        beginning = data[: value.start(1) + quote]
        yield beginning, data[value.end(1) - quote :]
        if data.endswith(b"}"):
            yield beginning, b"}"
    yield b"", b""


def _fits(frame: Frame, data: bytes) -> bool:
    """Whether data begin and end so."""
    beginning, end = frame
    return len(data) >= len(beginning) + len(end) and data.startswith(beginning) and data.endswith(end)
