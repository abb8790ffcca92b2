"""Frames for which there is no room: adjacent text becomes one frame, or frames are dropped and counted."""

from __future__ import annotations

from typing import Final

from crewbus.events import Chunk, Dropped, Envelope, Retracted

MAX_MERGED_CHARS: Final = 65_536
"""A longer text is not merged with the next."""


def merge(frames: list[Envelope], new: Envelope, boundary: int) -> bool:
    """Make one frame of the last of ``frames`` and ``new``; returns whether that was possible.

    ``boundary``: the number of the last step that finished; a retraction may begin after it.
    """
    last = frames[-1] if frames else None
    one = merged(last, new) if last is not None and _is_joined(last, new, boundary) else None
    if one is not None:
        frames[-1] = one
    return one is not None


def merged(last: Envelope, new: Envelope) -> Envelope | None:
    """One frame with the text of both, or None if they differ in more than their text."""
    if not (
        type(last.event) is type(new.event) is Chunk
        and last.event.kind == new.event.kind
        and last.attempt == new.attempt
        and last.source is new.source
        and len(last.event.text) < MAX_MERGED_CHARS
    ):
        return None
    event = Chunk(last.event.text + new.event.text, new.event.kind)
    return Envelope(event, new.run_id, new.seq, new.parent, new.at, new.source, new.attempt)


def drop(frames: list[Envelope], new: Envelope, boundary: int) -> None:
    """Count ``new`` in the marker at the end of ``frames``, which stands for what was dropped."""
    last = frames[-1].event if frames else None
    count = last.count + 1 if isinstance(last, Dropped) else 1
    parent = new.parent if count == 1 or _is_joined(frames[-1], new, boundary) else None
    marker = Envelope(Dropped(count), new.run_id, new.seq, parent, new.at)
    if count > 1:
        frames[-1] = marker
    else:
        frames.append(marker)


def without_retracted(frames: list[Envelope], event: Retracted) -> list[Envelope]:
    """``frames`` without the chunks that ``event`` retracts."""
    return [frame for frame in frames if not (isinstance(frame.event, Chunk) and event.covers(frame.seq, frame.parent))]


def _is_joined(last: Envelope, new: Envelope, boundary: int) -> bool:
    """Whether each retraction that covers one of two frames, which follow each other, covers the other too."""
    return last.parent == new.parent and boundary < last.seq
