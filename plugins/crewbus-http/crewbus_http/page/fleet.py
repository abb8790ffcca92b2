"""What the workers of a store do: queues, holders with their leases, and the runs that wait for an operator."""

from __future__ import annotations

import time
from typing import Any, Final

import attrs

from crewbus import Bus, RunInfo
from crewbus.stores import LogFilter, LogSummary, name_and_tags
from crewbus_workers import QueueInfo

_OPEN: Final = frozenset({"queued", "running", "suspended", "interrupted"})
_WORKFLOW: Final = "crewbus.workflow"
_QUEUE: Final = "crewbus.queue"
_SHOWN: Final = 50
"""How many runs of each kind are named."""


@attrs.define
class Held:
    """A run as a fleet sees it."""

    id: str
    name: str
    workflow: str
    """The label of its workflow, with the version; empty if it was not queued."""
    queue: str
    state: str
    epoch: int
    """How many processes have had it."""
    since: float
    """The time of its last event, in seconds since the epoch (UTC)."""
    lease: float | None
    """In how many seconds its lease ends unless it is renewed."""
    stalls: int
    due: float | None


@attrs.define
class Holder:
    """A process that executes runs."""

    name: str
    runs: list[Held] = attrs.field(factory=list)
    running: int = 0
    versions: dict[str, int] = attrs.field(factory=dict)
    """By the label of a workflow: how many runs of it."""


@attrs.define
class Fleet:
    """What one reading of the store shows."""

    queues: dict[str, QueueInfo] = attrs.field(factory=dict)
    holders: dict[str, Holder] = attrs.field(factory=dict)
    stuck: list[Held] = attrs.field(factory=list)
    """No worker takes them any more, until they are requeued."""
    interrupted: list[Held] = attrs.field(factory=list)
    """Their holder died, and nobody has resumed them yet."""
    handed_over: list[Held] = attrs.field(factory=list)
    """Suspended and due now: the next free worker takes them."""
    counts: dict[str, int] = attrs.field(factory=dict)
    """By state: how many runs."""


def survey(bus: Bus) -> Fleet:
    """Read the runs that have not ended."""
    fleet, now = Fleet(), time.time()
    for summary in bus.store.find(LogFilter(_OPEN)):
        held = _held(summary, now)
        fleet.counts[held.state] = fleet.counts.get(held.state, 0) + 1
        is_stuck = summary.info.is_stuck and held.state != "running"
        is_due = summary.info.is_due(now)
        if held.queue:
            fleet.queues.setdefault(held.queue, QueueInfo(held.queue)).count(summary, now)
        if held.state == "running":
            _hold(fleet, summary.info.holder or "?", held)
        elif is_stuck:
            _name(fleet.stuck, held)
        elif held.state == "interrupted":
            _name(fleet.interrupted, held)
        elif held.state == "suspended" and is_due and held.queue:
            _name(fleet.handed_over, held)
    fleet.queues = dict(sorted(fleet.queues.items()))
    fleet.holders = dict(sorted(fleet.holders.items()))
    return fleet


def _held(summary: LogSummary, now: float) -> Held:
    name, tags = name_and_tags(summary.first)
    info = summary.info
    return Held(
        info.root_id,
        name or "",
        tags.get(_WORKFLOW, ""),
        tags.get(_QUEUE, ""),
        summary.state,
        info.epoch,
        summary.at,
        None if info.until is None else info.until - now,
        info.stalls,
        info.due,
    )


def _hold(fleet: Fleet, name: str, held: Held) -> None:
    holder = fleet.holders.setdefault(name, Holder(name))
    holder.running += 1
    label = held.workflow or held.name or "run"
    holder.versions[label] = holder.versions.get(label, 0) + 1
    _name(holder.runs, held)


def _name(runs: list[Held], held: Held) -> None:
    if len(runs) < _SHOWN:
        runs.append(held)


def can_requeue(info: RunInfo) -> bool:
    """Whether workers can be given the run again: see `crewbus_workers.requeue`."""
    return _WORKFLOW in info.tags and info.state in ("interrupted", "suspended", "failed", "cancelled")


def as_json(value: Any) -> Any:
    """A view as JSON values."""
    return attrs.asdict(value)
