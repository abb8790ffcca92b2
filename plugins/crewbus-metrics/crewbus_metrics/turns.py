"""One update at a time in each thread: what a finaliser emits in the middle of one comes after it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final


class Turns(threading.local):
    """The updates of one thread, in turn: the locks of prometheus_client are not re-entrant."""

    def __init__(self) -> None:
        self._owed: Final[deque[Callable[[], object]]] = deque()
        self._busy = False

    def take(self, update: Callable[[], object]) -> None:
        """Make an update, and those that come up meanwhile; inside another one, leave it to that."""
        self._owed.append(update)
        if self._busy:
            return
        self._busy = True
        try:
            while self._owed:
                self._owed.popleft()()
        finally:
            self._busy = False
