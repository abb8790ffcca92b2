"""How threads wait for each other, without a lock that an interrupt or a finaliser could find held.

`threading.Event` has such a lock: an interrupt can leave it held, and the thread that sets the event waits forever.
"""

from __future__ import annotations

import threading
from contextlib import suppress


class Wakeup:
    """Wakes the one thread that waits for it. Any thread may set it, and so may a finaliser or a signal handler."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the wait in progress, or else the next one."""
        with suppress(RuntimeError):  # it is set already
            self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set, at most ``timeout`` seconds (None: no limit); returns whether it was set."""
        return self._lock.acquire(timeout=-1 if timeout is None else timeout)


class Latch:
    """Opens once, for all threads that wait."""

    __slots__ = ("_is_open", "_lock")

    def __init__(self) -> None:
        self._is_open = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_open(self) -> bool:
        """Whether it has opened."""
        return self._is_open

    def open(self) -> None:
        """Let all threads pass, now and later."""
        self._is_open = True
        self._release()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is open, at most ``timeout`` seconds (None: no limit); returns whether it is."""
        if not self._is_open:
            try:
                self._lock.acquire(timeout=-1 if timeout is None else timeout)
            finally:
                if self.is_open():
                    self._release()  # the next thread passes
        return self.is_open()

    def _release(self) -> None:
        with suppress(RuntimeError):  # another thread has released it
            self._lock.release()
