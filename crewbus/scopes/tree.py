"""Trees: what a root run and the runs nested in it share."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

from crewbus._util import reentrant_lock
from crewbus.scopes.thread_state import Deferring

if TYPE_CHECKING:
    from crewbus.scopes.ports import Lane
    from crewbus.scopes.stopping import WorkingTask


class Gate:
    """Whether the hot path may number and deliver an event of a scope without the lock."""

    __slots__ = ("free",)

    def __init__(self, free: bool) -> None:
        self.free = free


CLOSED: Final = Gate(False)
"""The gate of calls, of attempts, and of runs that are not running: the dispatcher must look closer."""


class Numbers(count):  # type: ignore[type-arg]
    """The numbers of a tree's events. Taking the next is atomic on every supported build.

    They end when events must be in an order: what an emission without the lock takes from then on is void.
    """

    __slots__ = ("end", "ended")

    def __init__(self, start: int = 0) -> None:  # noqa: ARG002 - `count` takes it as it is made
        self.ended = False
        self.end = -1
        """The first number that is void; set after `ended`, under the lock."""


class Tree(Gate):
    """What a root run and the runs nested in it share: the lock, the numbers, and the lane that commits events.

    ``free`` holds while nothing needs an order: no recorder, no stream, no stopped run.
    """

    __slots__ = (
        "announcing", "boundary", "dropped", "lane", "live", "lock", "log", "numbers", "recorded", "sinks", "started",
        "stopped", "working",
    )  # fmt: skip

    lane: Lane
    """How its events are committed."""

    def __init__(self, lane: Lane) -> None:
        super().__init__(True)
        # Re-entrant: `Run.retire` and the like run under it and are also called by themselves.
        self.lock = reentrant_lock()
        self.numbers = Numbers()
        self.boundary = -1
        """The number of the last step that finished in a recorded run: a retraction may begin after it."""
        self.recorded = False
        self.announcing = False
        """Whether a resumed run still records that it was resumed: until then nothing stops it."""
        self.log: Any = None
        """What durability keeps about a recorded tree; None: it is not recorded."""
        self.started: float | None = None
        """The time of the root's first event, in the record of a resumed one too; None until then."""
        self.stopped: dict[object, None] = {}
        """Its stopped runs in which anything is still live. A finaliser may add one without the lock."""
        self.working: dict[WorkingTask, None] | None = None
        """The asyncio tasks that are to be interrupted if a run is stopped; None: no task has entered a run yet."""
        self.dropped = 0
        """How many frames its streams have dropped."""
        self.sinks = 0
        """How many streams are attached to its runs."""
        self.live = 0
        """How many of its runs are live."""
        self.lane = lane

    @property
    def record(self) -> tuple[float, int] | None:
        """When the record of its root run began, and its epoch; None: it is not recorded, or has not started yet."""
        return (self.started, self.log.epoch or 1) if self.log is not None and self.started is not None else None

    def refresh(self) -> None:
        """Set `free` again; called under the lock, or before the tree is shared."""
        before, self.free = self.free, not (self.recorded or self.sinks > 0)
        if self.stopped:  # looked at last, since a finaliser adds to it without the lock
            self.free = False
        if before and not self.free:
            self.renumber()

    def renumber(self) -> int:
        """Continue with other `Numbers`, and return the next; called under the lock.

        An emission that found its gate open, and takes its number only now, finds it void and is committed instead:
        no such event is numbered after what is numbered next.
        """
        numbers = self.numbers
        numbers.ended = True  # before a number is taken: an emission that takes a later one sees it
        numbers.end = next(numbers)
        self.numbers = Numbers(numbers.end)
        return numbers.end

    def is_void(self, number: int, numbers: Numbers) -> bool:
        """Whether ``number``, taken from ended ``numbers``, is void."""
        with self.lock:
            return number >= numbers.end

    def give_back(self, number: int, numbers: Numbers) -> None:
        """Give ``number``, which an interrupted emission took from ``numbers``, to the next event.

        Where no order is kept, another thread may have taken the next one meanwhile; then there is a gap.
        """
        with Deferring(self.lock), self.lock:
            if numbers.ended and number >= numbers.end:  # it is void
                return
            numbers = self.numbers
            if self.renumber() == number + 1:
                numbers.end = number
                self.numbers = Numbers(number)

    def orphan(self, lane: Lane) -> None:
        """In a forked child: take a new lock and keep nothing; the runs continue in the parent only."""
        self.lock = reentrant_lock()
        self.sinks = self.live = 0
        self.stopped, self.working = {}, None
        self.recorded, self.log = False, None
        self.lane = lane
        self.refresh()
