"""Whether a bus can do its work: its store answers, its backlog is written, its queues are served."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import attrs

from crewbus import CrewbusError
from crewbus.stores import Backlog
from crewbus_metrics.queues import open_queues

if TYPE_CHECKING:
    from crewbus import Bus


@attrs.frozen
class QueueHealth:
    """A queue of crewbus-workers that has runs."""

    name: str
    waiting: int
    running: int
    stuck: int
    oldest: float | None
    """For how many seconds the oldest of the waiting runs has been there."""


@attrs.frozen
class Health:
    """What a check has found."""

    problems: tuple[str, ...]
    """What is wrong; nothing, if the bus is healthy."""
    store: str
    """Which store it is."""
    seconds: float | None
    """How long the store took to answer; None: it did not."""
    backlog: Backlog = attrs.field(factory=Backlog)
    """What the store has not written yet, of what this process has recorded."""
    queues: tuple[QueueHealth, ...] = ()
    """The queues that have runs; none without crewbus-workers."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {"healthy": self.healthy, **attrs.asdict(self)}


def health(bus: Bus, *, max_backlog: float | None = None, max_wait: float | None = None) -> Health:
    """Check a bus, from any thread; raises nothing, whatever is wrong.

    The store has to answer. ``max_backlog``: for how many seconds it may be behind with what this process has recorded.
    ``max_wait``: for how many seconds a run may wait in a queue of crewbus-workers; None: any time.
    """
    problems: list[str] = []
    name, began = "none", time.monotonic()
    try:
        store = bus.store
        name = str(getattr(store, "path", None) or repr(store))
        store.root_of("")
        seconds = time.monotonic() - began
        queues = tuple(open_queues(bus))
    except (CrewbusError, OSError) as error:
        return Health((f"the store does not answer: {error}",), name, None)
    backlog = bus.backlog
    if max_backlog is not None and backlog.seconds > max_backlog:
        problems.append(f"the store is {backlog.seconds:.1f} s behind, and {max_backlog:g} s are allowed")
    problems += [
        f"a run has waited in queue {queue.name} for {queue.oldest:.1f} s; {max_wait:g} s are allowed"
        for queue in queues
        if max_wait is not None and queue.oldest is not None and queue.oldest > max_wait
    ]
    return Health(
        tuple(problems),
        name,
        seconds,
        backlog,
        tuple(QueueHealth(one.name, one.waiting, one.running, one.stuck, one.oldest) for one in queues),
    )
