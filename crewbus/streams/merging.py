"""Merging: adjacent text as one frame, for a consumer whose policy is to coalesce."""

from __future__ import annotations

from typing import Final

from crewbus.events import Chunk, Envelope

MAX_MERGED_CHARS: Final = 65_536
"""A longer text is not merged with the next."""


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
