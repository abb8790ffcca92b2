"""Frames: the events of a run as followers get them, encoded once for all of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from crewbus import Envelope, Retracted, RunEnded, RunFailed
from crewbus_http.json_response import dump

if TYPE_CHECKING:
    from crewbus import Bus

__all__ = ["Encoder", "Frame"]


class Frame:
    """One event of a run, and the cursor behind it."""

    __slots__ = ("_line", "_message", "cursor", "data", "envelope", "name")

    def __init__(self, cursor: str, envelope: Envelope, data: bytes) -> None:
        self.cursor = cursor
        self.envelope = envelope
        self.data = data
        """The event as JSON: see "An event" among the JSON forms of crewbus."""
        self.name = type(envelope.event).__name__
        self._message: bytes | None = None
        self._line: bytes | None = None

    @property
    def ends(self) -> bool:
        """Whether the run ends with it."""
        return isinstance(self.envelope.event, RunEnded)

    @property
    def message(self) -> bytes:
        """It as a server-sent event."""
        if self._message is None:
            self._message = b"event: %b\nid: %b\ndata: %b\n\n" % (self.name.encode(), self.cursor.encode(), self.data)
        return self._message

    @property
    def line(self) -> bytes:
        """It as a line of JSON, with its cursor."""
        if self._line is None:
            self._line = b'{"cursor":"%b",%b\n' % (self.cursor.encode(), self.data[1:])
        return self._line


class Encoder:
    """Makes frames. ``reveal``: whether they tell what failures said."""

    def __init__(self, bus: Bus, *, reveal: bool) -> None:
        self._bus = bus
        self._reveal = reveal

    def frame(self, cursor: str, envelope: Envelope) -> Frame:
        """The frame of an envelope."""
        return Frame(cursor, envelope, dump(self.as_json(envelope)))

    def as_json(self, envelope: Envelope) -> dict[str, Any]:
        """An event as JSON."""
        stored = self._bus.recording.encode(envelope)
        fields: dict[str, Any] = stored._asdict()
        event = json.loads(fields.pop("data"))
        if not self._reveal and isinstance(envelope.event, RunFailed):
            event |= {"message": "", "value": None, "steps": []}
        if not self._reveal and isinstance(envelope.event, Retracted):
            event |= {"reason": ""}
        return {**fields, "event": event}
