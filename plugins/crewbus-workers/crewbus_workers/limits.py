"""How many runs may be executed at once, over all processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from crewbus import InputError
from crewbus.stores import Cap, Claim
from crewbus_workers.checks import is_count, is_text
from crewbus_workers.events import KEY_TAG, QUEUE_TAG, WORKFLOW_TAG
from crewbus_workers.workflows import registered

__all__ = ["Limits", "claim_for", "queues_by_limits"]


@attrs.frozen(kw_only=True)
class Limits:
    """Limits of a queue, over all workers that serve it. Give each worker of a queue the same limits."""

    running: int | None = None
    """How many runs of the queue are executed at once; None: as many as the workers have room for."""
    per_key: int | None = None
    """How many runs with the same key, of whatever queue, are executed at once; None: no limit."""


def checked_limits(queues: Iterable[str] | Mapping[str, Limits]) -> dict[str, Limits]:
    """The queues that a worker serves, with their limits. Raises `InputError`."""
    if isinstance(queues, str) or not isinstance(queues, Iterable):
        raise InputError(f"queues= takes the names of queues, or a mapping from them to Limits; got {queues!r}")
    found: dict[str, Any] = dict(queues) if isinstance(queues, Mapping) else dict.fromkeys(queues, Limits())
    if not found:
        raise InputError("a worker serves at least one queue")
    for name, limits in found.items():
        if not is_text(name):
            raise InputError(f"a queue's name is a text; got {name!r}")
        if not isinstance(limits, Limits):
            raise InputError(f"queue {name!r}: its limits are Limits(...); got {limits!r}")
        for limit in (limits.running, limits.per_key):
            if limit is not None and not is_count(limit):
                raise InputError(f"queue {name!r}: a limit is a number of runs, at least 1; got {limit!r}")
    return found


def queues_by_limits(queues: Mapping[str, Limits]) -> Iterable[tuple[Limits, frozenset[str]]]:
    """The queues that a worker serves, those with the same limits together: one claim is enough for them."""
    found: dict[Limits, set[str]] = {}
    for name, limits in queues.items():
        found.setdefault(limits, set()).add(name)
    return [(limits, frozenset(names)) for limits, names in found.items()]


def claim_for(names: frozenset[str], limits: Limits, room: int) -> Claim:
    """What a worker asks the store for, of queues with the same limits."""
    labels = frozenset(label for one in registered() for label in (one.name, one.label))
    caps = ((QUEUE_TAG, limits.running), (KEY_TAG, limits.per_key))
    return Claim(
        limit=room,
        tags={WORKFLOW_TAG: labels, QUEUE_TAG: names},
        caps=tuple(Cap(tag, limit) for tag, limit in caps if limit is not None),
    )
