"""What each thread is doing inside crewbus: which lock it holds, whether it delivers, what it has deferred."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from crewbus._util import call_all


class ThreadState:
    """One thread's state. Only its own thread reads and writes it, so it needs no lock."""

    __slots__ = ("__weakref__", "deferred", "delivering", "lock", "notified", "notifying", "serving")

    def __init__(self) -> None:
        self.lock: Any = None
        """The outermost of crewbus's locks that the thread holds or is taking. See `holds_lock`."""
        self.delivering = 0
        """How many deliveries to handlers, callbacks and observers the thread is inside."""
        self.notifying = 0
        """How many notifications of plugins about runs and the bus the thread is inside."""
        self.serving = False
        """Whether the thread empties the queue of a background handler."""
        self.deferred: list[Callable[[], object]] | None = None
        """What waits until the thread holds no lock: emissions of finalisers and signal handlers, and waits."""
        self.notified: WeakKeyDictionary[object, WeakSet[object]] | None = None
        """The stopped runs of which this thread, or a task that runs in it, was notified."""

    def holds_lock(self) -> bool:
        """Whether the thread holds one of crewbus's locks.

        An interrupt can keep `lock` from being reset after the release, so the lock itself is asked.
        """
        return self.lock is not None and self.lock._is_owned()

    def defer(self, call: Callable[[], object]) -> None:
        """Make ``call`` once this thread holds no lock."""
        if self.deferred is None:
            self.deferred = []
        self.deferred.append(call)

    def make_deferred(self) -> None:
        """Make the calls that were deferred: the thread holds no lock any more."""
        deferred, self.deferred = self.deferred, None
        call_all(deferred or ())

    @property
    def visits(self) -> int:
        """How many calls of handlers, callbacks, observers and notifying hooks the thread is inside."""
        return self.delivering + self.notifying

    def claim(self, task: object | None, run: object) -> bool:
        """Whether this thread, or the ``task`` that runs in it, was not yet notified that ``run`` was stopped.

        It counts as notified from now on. Objects identify threads and tasks, since the system reuses idents.
        """
        if self.notified is None:
            self.notified = WeakKeyDictionary()
        runs = self.notified.setdefault(self if task is None else task, WeakSet())
        if run in runs:
            return False
        runs.add(run)
        return True

    def was_notified(self, task: object | None, run: object) -> bool:
        """Whether this thread, or the ``task`` that runs in it, was notified that ``run`` was stopped."""
        return self.notified is not None and run in self.notified.get(self if task is None else task, ())


class _Threads(threading.local):
    # For finalisers that a collection calls while a thread's own state is being made.
    state = ThreadState()

    def __init__(self) -> None:
        self.state = ThreadState()


threads: Final = _Threads()
"""``threads.state`` is the state of the thread that reads it."""


class Deferring:
    """``with Deferring(lock), lock:`` holds one of crewbus's locks: what the thread defers runs after the release.

    The lock's own C code takes and releases it, since an interrupt at the start of a Python ``__exit__`` would leave it
    held. Here an interrupt only delays what is deferred until the thread leaves its next lock.
    """

    __slots__ = ("_lock", "_outer")

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._outer: Any = None

    def __enter__(self) -> None:
        state = threads.state
        self._outer = state.lock
        if not state.holds_lock():
            state.lock = self._lock

    def __exit__(self, *_: object) -> None:
        state = threads.state
        state.lock = self._outer
        if state.deferred is not None and not state.holds_lock():
            state.make_deferred()


def forget_thread() -> None:
    """In a forked child: the locks that this thread held in the parent are replaced."""
    threads.state = ThreadState()
