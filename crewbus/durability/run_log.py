"""What the runs of a recorded tree share besides their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from crewbus.durability import unrecorded
from crewbus.durability.home import Home
from crewbus.durability.nested_runs import NestedRuns

if TYPE_CHECKING:
    from crewbus.dispatch import OrderedLane
    from crewbus.durability.replay import Replay
    from crewbus.durability.tracked import Tracked
    from crewbus.scopes import Scope, Tree


class RunLog:
    """How a tree is recorded. All of it is read and changed under the tree's lock."""

    __slots__ = (
        "__weakref__", "asked_since", "claimed", "entities", "epoch", "executions", "homes", "lane", "looked_at",
        "nested_runs", "patches", "replay", "sources", "sync",
    )  # fmt: skip

    def __init__(self, lane: OrderedLane, sync: bool, epoch: int = 0) -> None:
        self.lane = lane
        """The lane that records without waiting for the disk, whatever a resumed run still repeats."""
        self.sync = sync
        """Whether an emission returns only when it is on disk."""
        self.epoch = epoch
        """The store's epoch with which a resumed run is recorded; 0: the recorder begins the log."""
        self.entities: dict[str, Tracked] = {}
        """What is tracked, by name, until the run is over."""
        self.sources: dict[int, Tracked] = {}
        """What is tracked because it was the source of an event, by its id(): it lives as long as this does."""
        self.executions: WeakKeyDictionary[Scope, object] = WeakKeyDictionary()
        """The thread or task in which each run was entered."""
        self.homes: WeakKeyDictionary[Scope, Home] = WeakKeyDictionary()
        """What the live runs and steps count, as far as a step was called in them."""
        self.patches: WeakKeyDictionary[Scope, dict[str, bool]] = WeakKeyDictionary()
        """By run: the patches that it was asked for, and whether it takes them."""
        self.nested_runs = NestedRuns()
        self.claimed = True
        """Whether no other process can have the id. False at first for a new run whose maker chose its id."""
        self.replay: Replay | None = None
        """What a resumed run still repeats."""
        self.asked_since = 0
        """Requests that were posted to a holder with a lower epoch are over."""
        self.looked_at = -1
        """The number of the last message in its mailbox that was looked at."""
        unrecorded.live[id(self)] = self

    def clear(self) -> None:
        """Keep nothing of the runs: they are over."""
        unrecorded.live.pop(id(self), None)
        self.entities.clear()
        self.sources.clear()
        self.executions.clear()
        self.homes.clear()
        self.patches.clear()
        self.nested_runs = NestedRuns()
        self.replay = None

    def name_for(self, name: str) -> str:
        """A name for another entity of the type of that name: with a number if it is taken."""
        number = len(self.sources) + 1
        return name if name not in self.entities else f"{name}#{number}"


def replay_of(tree: Tree) -> Replay | None:
    """What a resumed tree still repeats; None: it is not resumed, or not recorded, or over."""
    log: RunLog | None = tree.log
    return log.replay if log is not None else None
