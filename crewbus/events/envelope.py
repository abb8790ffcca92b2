"""Envelopes: an event as emitted, with its run, number, parent, time and source."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.define(eq=False, weakref_slot=False)
class Envelope:
    """An event as emitted: the event, and where and when it was emitted."""

    event: Any
    """The emitted object, an instance of a registered event type."""
    run_id: str | None
    """The run it was emitted in; None outside any run."""
    seq: int
    """Its number, from 0: gapless within a root run and its nested runs; outside runs, within the process.
    -1 for an event that a resumed run repeats from its record."""
    parent: str | None
    """The `id` of the envelope that started the innermost run, call, step or attempt around it. A start event names
    the scope around the one it starts."""
    at: float
    """The time of emission, in seconds since the epoch (UTC)."""
    source: Any = None
    """The emitter, as given; in an envelope read from a record, its name."""
    attempt: int = 1
    """The number of the attempt that it belongs to, from 1."""
    replayed: bool = False
    """Whether it was read from a record, and not emitted just now."""

    @property
    def id(self) -> str:
        """The envelope's id, unique within its record: the run's id and ``seq``."""
        return f"{self.run_id or 'unscoped'}:{self.seq}"
