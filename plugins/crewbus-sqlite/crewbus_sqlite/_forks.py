"""Process forks: stores close their files meanwhile, since SQLite can't share a connection with a child."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakSet

from crewbus import reentrant_lock


class Forkable(Protocol):
    """What a store does when its process forks."""

    def before_fork(self) -> Callable[[], None]:
        """Close the file, and keep all threads from it until the returned function is called."""

    def after_fork(self) -> None:
        """Called in the child: hold nothing."""


class _Forks:
    def __init__(self) -> None:
        self._stores: WeakSet[Forkable] = WeakSet()
        self._lock = reentrant_lock()
        self._resume: list[Callable[[], None]] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._in_child)

    def register(self, store: Forkable) -> None:
        """Have a store prepared for each fork from now on."""
        with self._lock:
            self._stores.add(store)

    def _before(self) -> None:
        self._lock.acquire()
        self._resume = [store.before_fork() for store in self._stores]

    def _after(self) -> None:
        for resume in self._resume:
            resume()
        self._resume = []
        self._lock.release()

    def _in_child(self) -> None:
        self._after()
        for store in list(self._stores):
            store.after_fork()


forks: Final = _Forks()
"""The stores of this process."""
