"""Wakeups: how a thread waits for others, without a lock that an interrupt or a finaliser could find held."""

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
