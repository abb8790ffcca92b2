"""Trees: what a root run and the runs nested in it share."""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from crewbus.scopes.cancellation import WorkingTask
    from crewbus.scopes.ports import Lane


class Gate:
    """Whether the hot path may number and deliver an event of a scope without the lock."""

    __slots__ = ("free",)

    def __init__(self, free: bool) -> None:
        self.free = free


CLOSED: Final = Gate(False)
"""The gate of calls, of attempts, and of runs that are not running: the dispatcher must look closer."""


class Tree(Gate):
    """What a root run and the runs nested in it share: the lock, the numbers, and the lane that commits events.

    ``free`` holds while nothing needs an order: no recorder, no stream, no cancelled run.
    """

    __slots__ = ("cancelled", "lane", "live", "lock", "log", "numbers", "recorded", "sinks", "working")

    lane: Lane
    """How its events are committed."""

    def __init__(self, lane: Lane) -> None:
        super().__init__(True)
        # Re-entrant: `Run.retire` and the like run under it and are also called by themselves.
        self.lock = threading.RLock()
        # Taking the next of a count is atomic on every supported build.
        self.numbers = count()
        self.recorded = False
        self.log: Any = None
        """What durability keeps about a recorded tree; None: it is not recorded."""
        self.cancelled: dict[object, None] = {}
        """Its cancelled runs in which anything is still live. A finaliser may add one without the lock."""
        self.working: dict[WorkingTask, None] = {}
        """The asyncio tasks that are to be interrupted if a run is cancelled."""
        self.sinks = 0
        """How many streams are attached to its runs."""
        self.live = 0
        """How many of its runs are live."""
        self.lane = lane

    def refresh(self) -> None:
        """Set `free` again; called under the lock, or before the tree is shared."""
        self.free = not (self.recorded or self.sinks > 0)
        if self.cancelled:  # looked at last, since a finaliser adds to it without the lock
            self.free = False

    def orphan(self, lane: Lane) -> None:
        """In a forked child: take a new lock and keep nothing; the runs continue in the parent only."""
        self.lock = threading.RLock()
        self.sinks = self.live = 0
        self.cancelled, self.working = {}, {}
        self.recorded, self.log = False, None
        self.lane = lane
        self.refresh()
