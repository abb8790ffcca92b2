"""What other processes do to the live runs of this bus: they ask to cancel them, or take them.

Requests come through the mailboxes of the store; the store itself tells of runs that were taken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from crewbus import durability
from crewbus._util import Wakeup, reentrant_lock, start_daemon
from crewbus.exceptions import CrewbusError
from crewbus.scopes import Deferring, Stop

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
    """Looks into the mailboxes of live runs when their store has changed, and stops the runs that it has lost."""

    def __init__(self, store: Store, runs: Callable[[], Iterable[Run]]) -> None:
        self.store = store
        self._runs = runs
        self._changed = Wakeup()
        self._lost = deque[tuple[str, int, CrewbusError]]()
        """The runs that were lost, with the epochs in which they were held, and the errors."""
        self._ended = threading.Event()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._changed.set()

    def work(self) -> None:
        """Look until the end."""
        with suppress(CrewbusError):  # the store is closed
            stops = self.store.on_lost(self._lose), self.store.watch_work(self._changed.set)
            try:
                while not self._ended.is_set():
                    self._stop_lost()
                    self._look()
                    self._changed.wait()
                    self._ended.wait(_PAUSE)
            finally:
                for stop in stops:
                    stop()

    def _lose(self, root_id: str, epoch: int, error: CrewbusError) -> None:
        self._lost.append((root_id, epoch, error))
        self._changed.set()

    def _stop_lost(self) -> None:
        while self._lost:
            root_id, epoch, error = self._lost.popleft()
            for run in self._runs():
                if run.id == root_id and (run.epoch or 1) == epoch:
                    run.mark_stopped(Stop.losing(error))

    def _look(self) -> None:
        logs: dict[Run, Any] = {run: run.tree.log for run in self._runs() if run.parent is None}
        runs = {run.id: (run, log.looked_at) for run, log in logs.items() if log is not None}
        if runs:
            with suppress(CrewbusError):  # the store does not answer, and is asked again
                found = self.store.mail({run_id: looked_at for run_id, (_, looked_at) in runs.items()})
                for run_id, messages in found.items():
                    durability.act_on(messages, runs[run_id][0])
