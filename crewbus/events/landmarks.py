"""Landmarks: the events that describe the course of a recorded run. A resume reads these and nothing else."""

from __future__ import annotations

from typing import Final

from crewbus.events import types
from crewbus.events.registration import event_types
from crewbus.events.types import CheckpointSaved, RunEnded, RunResumed, RunSuspended

__all__ = ["ENDS", "LANDMARKS", "MARKS", "SUSPENDED"]

_declared: Final = [known for known in event_types() if known.landmark and known.cls.__module__ == types.__name__]

LANDMARKS: Final = frozenset(known.name for known in _declared)
"""The names of the landmark event types: `Store.landmarks` finds their events without reading the others."""
ENDS: Final = frozenset(known.name for known in _declared if issubclass(known.cls, RunEnded))
"""The names of the event types that end a run, or suspend it."""
SUSPENDED: Final = next(known.name for known in _declared if known.cls is RunSuspended)
"""The name of the event type that suspends a run: it is among `ENDS`, and the run goes on."""
MARKS: Final = ENDS | {known.name for known in _declared if known.cls in (CheckpointSaved, RunResumed)}
"""The names of the event types that locate checkpoints and the end of a run: `Store.marks` finds them from the end."""
