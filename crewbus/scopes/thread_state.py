"""What each thread is doing inside crewbus: which locks it holds, whether it delivers, what it has deferred."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Self


class ThreadState:
    """One thread's state. Only its own thread reads and writes it, so it needs no lock."""

    __slots__ = ("deferred", "delivering", "locks")

    def __init__(self) -> None:
        self.locks = 0
        """How many of crewbus's locks the thread holds, or is about to take."""
        self.delivering = 0
        """How many deliveries to handlers, callbacks and observers the thread is inside."""
        self.deferred: list[Callable[[], object]] | None = None
        """What waits until the thread holds no lock: emissions of finalisers and signal handlers, and waits."""

    def defer(self, call: Callable[[], object]) -> None:
        """Make ``call`` once this thread holds no lock."""
        if self.deferred is None:
            self.deferred = []
        self.deferred.append(call)

    def take_deferred(self) -> list[Callable[[], object]] | None:
        """What was deferred, which the caller makes now."""
        deferred, self.deferred = self.deferred, None
        return deferred


class _Threads(threading.local):
    def __init__(self) -> None:
        self.state = ThreadState()


threads: Final = _Threads()
"""``threads.state`` is the state of the thread that reads it."""


class Held:
    """``with Held(lock):`` holds one of crewbus's locks. What the thread defers meanwhile runs after the release."""

    __slots__ = ("_lock",)

    def __init__(self, lock: threading.RLock | threading.Condition) -> None:
        self._lock = lock

    def __enter__(self) -> Self:
        state = threads.state
        outer = state.locks
        try:
            state.locks = outer + 1
            self._lock.acquire()
        except BaseException:  # an interrupt: `__exit__` will not run
            state.locks = outer
            raise
        return self

    def __exit__(self, *_: object) -> None:
        state = threads.state
        self._lock.release()
        state.locks -= 1
        if not state.locks:
            for call in state.take_deferred() or ():
                call()


def forget_thread() -> None:
    """In a forked child: the locks that this thread held in the parent are replaced."""
    threads.state = ThreadState()
