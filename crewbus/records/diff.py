"""Where two records diverge first, scope by scope."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any, Final

import attrs

from crewbus import serialization
from crewbus.events import (
    AttemptStarted,
    CallStarted,
    CheckpointSaved,
    EntitySaved,
    Envelope,
    Retracted,
    RunForked,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepFinished,
    StepStarted,
)
from crewbus.records.retractions import Retractions
from crewbus.records.tree import Node, RecordTree

__all__ = ["Divergence"]

Path = tuple[str, ...]


@attrs.frozen
class Divergence:
    """The first difference between two records in one scope. One of the two may have no event there."""

    scope: str
    """The names of the runs, steps and calls around it."""
    one: Envelope | None
    other: Envelope | None


_OPENING: Final = (RunStarted, StepStarted, CallStarted, AttemptStarted)
_UNCOUNTED: Final = (RunSuspended, RunResumed, RunForked)
"""Events about the record itself rather than the run."""


def first_divergence(
    one: Iterable[Envelope], other: Iterable[Envelope], encode: Callable[[Any], Any]
) -> Divergence | None:
    """Return the first divergence, in the order of ``one``, then of ``other``; None if there is none.

    Compares what ``encode(event)`` returns, since event classes need not define equality.
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
    """Group the events by the scope that they belong to directly, without retracted ones."""
    tree: RecordTree[Path] = RecordTree()
    found: dict[Path, list[Envelope]] = {}
    for envelope in _not_retracted(record):
        around = _path(tree.find(envelope.parent))
        if isinstance(envelope.event, _OPENING):
            node = tree.apply(type(envelope.event), envelope)
            assert node is not None
            path = node.value = (*around, _label(envelope.event, top=not around))
            if isinstance(envelope.event, StepStarted) and path in found:  # another try, or another result in a fork
                found[path] = [one for one in found[path] if not isinstance(one.event, StepFinished)]
                continue
            around = path
        if not isinstance(envelope.event, _UNCOUNTED):
            found.setdefault(around, []).append(envelope)
    return found


def _path(node: Node[Path] | None) -> Path:
    return node.value if node is not None and node.value is not None else ()


def _not_retracted(record: Iterable[Envelope]) -> Iterator[Envelope]:
    envelopes, retractions = list(_with_whole_states(record)), Retractions()
    for envelope in envelopes:
        if isinstance(envelope.event, Retracted):
            retractions.add(envelope.event, envelope.seq)
    for envelope in envelopes:
        if isinstance(envelope.event, Retracted):
            continue
        scope_id = envelope.id if isinstance(envelope.event, _OPENING) else envelope.parent
        if not retractions.cover(envelope.seq, scope_id):
            yield envelope


def _with_whole_states(record: Iterable[Envelope]) -> Iterator[Envelope]:
    """The envelopes, with the whole state of each entity in place of what changed: which it is depends on the run."""
    states: dict[int, Any] = {}
    for envelope in record:
        event = envelope.event
        if not isinstance(event, EntitySaved):
            yield envelope
            continue
        if event.base in states:
            data = serialization.apply_change(states[event.base], event.data)
            event = EntitySaved(event.name, event.type, event.version, data)
        states[envelope.seq] = event.data
        yield attrs.evolve(envelope, event=event)


def _label(event: Any, top: bool) -> str:
    if isinstance(event, AttemptStarted):
        return f"attempt {event.number}"
    if isinstance(event, StepStarted):
        return f"step {event.name}[{event.key}]{f'#{event.ordinal}' if event.ordinal else ''}"
    return f"{'call' if isinstance(event, CallStarted) else 'run'} {event.name or ''}" if not top else "run"


def _content(envelope: Envelope, encode: Callable[[Any], Any]) -> Any:
    """Return the part of an envelope that is compared."""
    event = envelope.event
    if isinstance(event, RunStarted):
        event = RunStarted(event.name, event.tags, key=event.key)
    elif isinstance(event, AttemptStarted):
        event = AttemptStarted(event.number, event.again)
    elif isinstance(event, StepStarted):
        event = StepStarted(event.name, event.key, event.ordinal, event.inline, event.identity)
    elif isinstance(event, CheckpointSaved):
        event = CheckpointSaved(event.name, dict.fromkeys(event.entities, 0))
    return encode(event), envelope.source
