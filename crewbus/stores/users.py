"""Reference counts of stores: several buses may share one."""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from crewbus._util import reentrant_lock
from crewbus.stores.contract import Store


class StoreRefs:
    """Counts the buses that use each store; the last one to release a store closes it."""

    def __init__(self) -> None:
        self._counts: WeakKeyDictionary[Store, int] = WeakKeyDictionary()
        self._lock = reentrant_lock()

    def acquire(self, store: Store) -> None:
        """Count one more bus that uses ``store``."""
        with self._lock:
            self._counts[store] = self._counts.get(store, 0) + 1

    def release(self, store: Store) -> None:
        """Count one bus fewer, and close ``store`` if that was the last."""
        with self._lock:
            self._counts[store] = remaining = self._counts.get(store, 1) - 1
        if remaining <= 0:
            store.close()

    def after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self._lock = reentrant_lock()


store_refs: Final = StoreRefs()
"""The reference counts of this process."""
