"""Envelopes: an event as emitted, with its run, number, parent, time and source."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.define(eq=False, weakref_slot=False)
class Envelope:
    """An event as emitted: the event, and where and when it happened."""

    event: Any
    """The emitted object, an instance of a registered event type."""
    run_id: str | None
    """The run it was emitted in; None outside any run."""
    seq: int
    """Its number: gapless within a root run and the runs nested in it, from 0; outside runs, per process.
    -1 where a resumed run emits again what its record holds."""
    parent: str | None
    """`id` of the envelope that opened what it belongs to: the start of its run, call or attempt; for a start, that of
    what is around it."""
    at: float
    """When it was emitted, in seconds since the epoch (UTC)."""
    source: Any = None
    """Who emitted it, as given; a string naming it, once read back from a record."""
    attempt: int = 1
    """Which attempt of a retried piece of work it belongs to, from 1."""
    replayed: bool = False
    """Whether it is told again from a record rather than happening now."""

    @property
    def id(self) -> str:
        """The envelope's id, unique in its record."""
        return f"{self.run_id or 'unscoped'}:{self.seq}"
