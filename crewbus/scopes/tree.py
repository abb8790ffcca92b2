"""Trees: what a root run and the runs nested in it share. The lock, the numbers, the gate of recording."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crewbus.durability.run_log import Log

FREE: Final = 0
"""Nothing is attached: an emission is numbered by the atomic counter, and nothing is locked."""
ORDERED: Final = 1
"""A recorder or a stream is attached: an emission takes the lock."""
CANCELLED: Final = 2
"""Something in the tree was cancelled: an emission must look whether it may go on."""
CAREFUL: Final = 4
"""The tree is recorded, and an emission must wait for the disk, or be told from what a resumed run repeats."""
SCOPED: Final = 3
"""A call or an attempt stands between an emission and its run, if there is one."""


class Tree:
    """What a root run and the runs nested in it share.

    ``mode`` (FREE, ORDERED, CANCELLED, CAREFUL, SCOPED) is what the hot path looks at to choose its way. ``after``
    holds what the thread inside the lock has to do once it is out.
    """

    __slots__ = ("after", "busy", "cancelled", "live", "lock", "log", "mode", "numbers", "recorded", "sinks")

    def __init__(self, mode: int = FREE) -> None:
        # Re-entrant, since a finaliser or signal handler may emit while this thread is inside;
        # `busy` tells, and what it emits is deferred until the lock is free.
        self.lock = threading.RLock()
        # Taking the next of a count is atomic on every supported build, with no lock.
        self.numbers = count()
        self.busy = False
        self.after: list[Callable[[], object]] | None = None
        self.recorded = False
        self.log: Log | None = None
        """How it is recorded; None: it is not."""
        self.cancelled = False
        self.mode = mode
        self.sinks = 0
        self.live = 0

    def judge(self) -> None:
        """Set `mode` anew; called under the lock, or before the tree is shared."""
        if self.cancelled:
            self.mode = CANCELLED
        elif self.log is not None and self.log.careful:
            self.mode = CAREFUL
        else:
            self.mode = ORDERED if self.recorded or self.sinks > 0 else FREE

    def defer(self, call: Callable[[], object]) -> None:
        """Have ``call`` made by the thread inside the lock, once it is out."""
        if self.after is None:
            self.after = []
        self.after.append(call)


UNSTARTED: Final = Tree()
"""The tree of a run that has not started."""
INNER: Final = Tree(SCOPED)
"""The tree of calls and attempts, as far as the hot path sees: it says that an emission must look closer."""
