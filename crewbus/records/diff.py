"""Differences: where two records diverge first, scope by scope."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any, Final

import attrs

from crewbus.events import (
    AttemptStarted,
    CallStarted,
    CheckpointSaved,
    Envelope,
    Retracted,
    RunForked,
    RunResumed,
    RunStarted,
    StepFinished,
    StepStarted,
)
from crewbus.records.retractions import Retractions

__all__ = ["Divergence"]

Path = tuple[str, ...]


@attrs.frozen
class Divergence:
    """Where two records are different for the first time, in one scope. One of the two may have nothing there."""

    scope: str
    """The runs, steps and calls around it, by name."""
    one: Envelope | None
    other: Envelope | None


_OPENING: Final = (RunStarted, StepStarted, CallStarted, AttemptStarted)
_UNCOUNTED: Final = (RunResumed, RunForked)
"""Events that say how a record came about, not what happened."""


def first_divergence(
    one: Iterable[Envelope], other: Iterable[Envelope], encode: Callable[[Any], Any]
) -> Divergence | None:
    """The first, in the order of ``one``, then of ``other``; None where there is none.

    ``encode(event)`` gives what is compared: events of any class need not know when they are equal.
    """
    ours, theirs = _by_scope(one), _by_scope(other)
    found = []
    for path in ours.keys() | theirs.keys():
        for left, right in zip_longest(ours.get(path, ()), theirs.get(path, ())):
            if left is None or right is None or _content(left, encode) != _content(right, encode):
                found.append(Divergence(" > ".join(path) or "outside", left, right))
                break
    return min(found, key=_order, default=None)


def _order(divergence: Divergence) -> tuple[int, int]:
    at = divergence.one if divergence.one is not None else divergence.other
    assert at is not None
    return at.seq, 0 if divergence.one is not None else 1


def _by_scope(record: Iterable[Envelope]) -> dict[Path, list[Envelope]]:
    """What belongs directly to each scope, in order; what was taken back is left out."""
    paths: dict[str, Path] = {}
    found: dict[Path, list[Envelope]] = {}
    for envelope in _standing(record):
        around = paths.get(envelope.parent or "", ())
        if isinstance(envelope.event, _OPENING):
            path = paths[envelope.id] = (*around, _label(envelope.event, top=not around))
            if isinstance(envelope.event, StepStarted) and path in found:  # another try, or another result in a fork
                found[path] = [one for one in found[path] if not isinstance(one.event, StepFinished)]
                continue
            around = path
        if not isinstance(envelope.event, _UNCOUNTED):
            found.setdefault(around, []).append(envelope)
    return found


def _standing(record: Iterable[Envelope]) -> Iterator[Envelope]:
    envelopes, taken_back = list(record), Retractions()
    for envelope in envelopes:
        if isinstance(envelope.event, Retracted):
            taken_back.add(envelope.event, envelope.seq)
    for envelope in envelopes:
        if isinstance(envelope.event, Retracted):
            continue
        within = envelope.id if isinstance(envelope.event, _OPENING) else envelope.parent
        if not taken_back.cover(envelope.seq, within):
            yield envelope


def _label(event: Any, top: bool) -> str:
    if isinstance(event, AttemptStarted):
        return f"attempt {event.number}"
    if isinstance(event, StepStarted):
        return f"step {event.name}[{event.key}]{f'#{event.ordinal}' if event.ordinal else ''}"
    return f"{'call' if isinstance(event, CallStarted) else 'run'} {event.name or ''}" if not top else "run"


def _content(envelope: Envelope, encode: Callable[[Any], Any]) -> Any:
    """What counts of an envelope."""
    event = envelope.event
    if isinstance(event, RunStarted):
        event = RunStarted(event.name, event.tags)
    elif isinstance(event, CheckpointSaved):
        event = CheckpointSaved(event.name, dict.fromkeys(event.entities, 0))
    return encode(event), envelope.source
