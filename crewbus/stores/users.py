"""Reference counts of stores: several buses may share one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from crewbus._util import reentrant_lock

if TYPE_CHECKING:
    from crewbus.stores.contract import Store


class StoreRefs:
    """Knows which buses use each store; the last one to release a store closes it."""

    def __init__(self) -> None:
        self._users: WeakKeyDictionary[Store, set[object]] = WeakKeyDictionary()
        self._lock = reentrant_lock()

    def acquire(self, store: Store, user: object) -> None:
        """Note that ``user``, which stands for a bus, uses ``store``."""
        with self._lock:
            self._users.setdefault(store, set()).add(user)

    def release(self, store: Store, user: object) -> None:
        """Note that ``user`` does not use ``store`` any more, and close it if no other does."""
        with self._lock:
            users = self._users.get(store, set())
            users.discard(user)
        if not users:
            store.close()

    def after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self._lock = reentrant_lock()


store_refs: Final = StoreRefs()
"""The reference counts of this process."""
