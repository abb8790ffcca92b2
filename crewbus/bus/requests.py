"""Requests of other processes to cancel runs of this bus, which come through the mailboxes of its store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from crewbus import durability
from crewbus._util import Wakeup, reentrant_lock, start_daemon
from crewbus.exceptions import CrewbusError
from crewbus.scopes import Deferring

if TYPE_CHECKING:
    from crewbus.scopes import Run
    from crewbus.stores import Store

_PAUSE: Final = 0.25
"""Seconds between two looks, however often the store changes."""
_NAME: Final = "crewbus-requests"


class Requests:
    """Acts on requests for the live runs of a bus. ``runs`` returns them."""

    def __init__(self, runs: Callable[[], Iterable[Run]]) -> None:
        self._runs = runs
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: the parent's thread is not here."""
        self._lock = reentrant_lock()
        self._looking: _Looking | None = None
        self.thread: threading.Thread | None = None
        """What looks for them."""

    def expect(self, store: Store) -> None:
        """Look for them in this store from now on: runs of this bus are recorded there."""
        if not store.is_shared or (self._looking is not None and self._looking.store is store):
            return
        with Deferring(self._lock), self._lock:
            self._end()
            looking = _Looking(store, self._runs)
            self.thread = start_daemon(_NAME, looking.work)
            self._looking = looking

    def close(self) -> None:
        """Look no more."""
        with Deferring(self._lock), self._lock:
            self._end()
            thread, self.thread = self.thread, None
        if thread is not None:
            thread.join()

    def _end(self) -> None:
        if self._looking is not None:
            self._looking.end()
        self._looking = None


class _Looking:
    """Looks into the mailboxes of live runs when their store has changed."""

    def __init__(self, store: Store, runs: Callable[[], Iterable[Run]]) -> None:
        self.store = store
        self._runs = runs
        self._changed = Wakeup()
        self._ended = threading.Event()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._changed.set()

    def work(self) -> None:
        """Look until the end."""
        with suppress(CrewbusError):  # the store is closed
            stop = self.store.watch(self._changed.set)
            try:
                while not self._ended.is_set():
                    self._look()
                    self._changed.wait()
                    self._ended.wait(_PAUSE)
            finally:
                stop()

    def _look(self) -> None:
        for run in self._runs():
            log: Any = run.tree.log
            if log is not None and run.parent is None:
                with suppress(CrewbusError):  # it is not written yet, or is over
                    durability.act_on(self.store.posted(run.id, log.looked_at), run)
