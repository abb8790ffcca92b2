"""Watching: who is to be notified when a store may have changed, and a thread that looks for changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol
from weakref import WeakKeyDictionary, ref

from crewbus._util import reentrant_lock, start_daemon

__all__ = ["PERIOD", "Watchers", "Watching", "watch_by_polling"]

Notify = Callable[..., object]
PERIOD: Final = 0.25
"""Seconds between two looks at a store that does not say when it changes."""


class Changing(Protocol):
    """A store, as far as watching asks."""

    def changes(self) -> object:
        """See `crewbus.Store.changes`."""


class Watchers:
    """The functions to call when a store may have changed, or something else has happened."""

    def __init__(self) -> None:
        self._notifies: tuple[tuple[object, Notify], ...] = ()
        self._lock = reentrant_lock()

    def __bool__(self) -> bool:
        return bool(self._notifies)

    def add(self, notify: Notify) -> Callable[[], None]:
        """Call ``notify`` from now on; returns the function that ends that."""
        key = object()
        with self._lock:
            self._notifies = (*self._notifies, (key, notify))

        def stop() -> None:
            with self._lock:
                self._notifies = tuple(entry for entry in self._notifies if entry[0] is not key)

        return stop

    def notify(self, *arguments: object) -> None:
        """Call them all. What one raises does not keep the others from being called."""
        for _, notify in self._notifies:
            with suppress(Exception):
                notify(*arguments)


class Watching:
    """Watchers, and a daemon thread that looks for changes while there are any.

    ``look`` is called about every ``period`` seconds, in that thread, and says whether there may have been a change.
    What it raises counts as one: whoever is notified then sees the error for itself.
    """

    def __init__(self, look: Callable[[], bool], period: float, name: str) -> None:
        self._look = look
        self._period = period
        self._name = name
        self._watchers = Watchers()
        self._lock = reentrant_lock()
        self._going: threading.Lock | None = None
        """Held until the thread is to end; None while there is none. An Event's wait takes five times as long."""
        self._thread: threading.Thread | None = None

    def add(self, notify: Notify) -> Callable[[], None]:
        """Call ``notify`` after each change from now on; returns the function that ends that."""
        with self._lock:
            remove = self._watchers.add(notify)
            try:
                self._start()
            except BaseException:
                remove()
                raise

        def stop() -> None:
            with self._lock:
                remove()
                if not self._watchers:
                    self._end()

        return stop

    def notify(self) -> None:
        """Notify at once."""
        self._watchers.notify()

    def close(self) -> None:
        """End the thread, and return when it has ended; nobody is notified any more."""
        with self._lock:
            self._watchers = Watchers()
            self._end()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _start(self) -> None:
        if self._going is not None:
            return
        going = threading.Lock()
        going.acquire()
        self._thread = start_daemon(self._name, self._work, going)
        self._going = going

    def _end(self) -> None:
        going, self._going = self._going, None
        if going is not None:
            going.release()

    def _work(self, going: threading.Lock) -> None:
        while not going.acquire(timeout=self._period):
            try:
                changed = self._look()
            except Exception:
                changed = True
            if changed and going.locked():
                self._watchers.notify()


def watch_by_polling(store: Changing, notify: Notify) -> Callable[[], None]:
    """Watch a store by asking it for `Store.changes`, in one thread for all that watch it."""
    with _lock:
        polling = _polling.get(store)
        if polling is None:
            polling = _polling[store] = Watching(_Looks(store), PERIOD, f"crewbus watch {type(store).__name__}")
    return polling.add(notify)


class _Looks:
    """Compares what a store says at each look. It does not keep the store alive."""

    def __init__(self, store: Changing) -> None:
        self._store = ref(store)
        self._said: object = store.changes()

    def __call__(self) -> bool:
        store = self._store()
        if store is None:
            return False
        before, self._said = self._said, store.changes()
        return self._said is None or self._said != before


_polling: Final[WeakKeyDictionary[Changing, Watching]] = WeakKeyDictionary()
_lock: Final = reentrant_lock()
