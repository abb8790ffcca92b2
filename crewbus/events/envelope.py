"""Envelopes: an event as emitted, with its run, number, parent, time and source."""

from __future__ import annotations

from typing import Any

import attrs

from crewbus._util import scope_id
from crewbus.events.types import AttemptStarted, StepStarted


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
    the scope around the one it starts. Whether an attempt's `Retracted` takes it back follows from this."""
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
        """The envelope's id, unique within its record: the run's id and ``seq``.

        In an attempt or step, it is the id of that, which ends with a slash, and ``seq``.
        """
        event = self.event
        is_level = isinstance(event, AttemptStarted | StepStarted) and not event.flat
        return scope_id(self.run_id, self.seq, self.parent, is_level=is_level)
