"""The locks that ``with`` statements hold, which an interrupt can't leave held."""

from __future__ import annotations

import sys
import threading
from _thread import RLock

if sys.version_info < (3, 14):
    _Lock = RLock
else:

    class _Lock(RLock):
        """Does not rely on the ``with`` statement, which may be interrupted since 3.14 once the lock is acquired.

        See https://github.com/python/cpython/issues/148874: 3.15 mended it for signal handlers, not for tracing. No
        interrupt comes between the end of a function in Python and the statement's body. One may come at the start of
        such a function, so that the release remains C code.
        """

        __slots__ = ()

        def __enter__(self) -> bool:
            before = self._recursion_count()
            try:
                return self.acquire()
            except BaseException:
                if self._recursion_count() > before:
                    self.release()
                raise


def reentrant_lock() -> threading.RLock:
    """Make a `threading.RLock` for ``with`` statements, which an interrupt can't leave held.

    On Python 3.14 a signal handler may run, and raise, once a ``with`` statement has acquired a plain lock and before
    it is bound to release it. Use this one for what handlers, observers and stores share with other threads.
    """
    return _Lock()
