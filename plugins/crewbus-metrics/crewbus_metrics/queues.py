"""The queues of crewbus-workers, which need not be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crewbus import Bus
    from crewbus_workers import QueueInfo

try:
    from crewbus_workers import queues
except ImportError:
    HAS_QUEUES = False
else:
    HAS_QUEUES = True


def open_queues(bus: Bus) -> list[QueueInfo]:
    """The queues with runs that have not ended; none without crewbus-workers."""
    return queues(bus) if HAS_QUEUES else []
