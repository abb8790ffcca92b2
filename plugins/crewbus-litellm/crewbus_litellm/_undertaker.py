"""The undertaker: ends, in a thread of its own, the calls whose streams were given up.

A stream that nobody holds any more is noticed by a finaliser. It may run in any thread, in the middle of anything,
so it must neither take a lock nor call handlers; it only leaves word here.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import Final

_log = logging.getLogger("crewbus")

LINGER: Final = 5.0
"""How many seconds the thread stays when no stream is under way."""

Burial = Callable[[], None]


class Undertaker:
    """Has one thread while streams are under way, and for a little longer; none in a process without streams."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, in a forked child: the streams under way are the parent's, and so is the thread."""
        self._lock = threading.Lock()
        self._under_way = 0
        self._thread: threading.Thread | None = None
        self._word: SimpleQueue[Burial] = SimpleQueue()

    def expect(self) -> None:
        """Be there: a stream is under way."""
        with self._lock:
            self._under_way += 1
            if self._thread is None:
                # In a context of its own, not that of whoever happens to stream first.
                work = threading.Thread(target=Context().run, args=(self._work,), name="crewbus-litellm", daemon=True)
                work.start()
                self._thread = work

    def dismiss(self) -> None:
        """A stream has ended as it should."""
        with self._lock:
            self._under_way -= 1

    def bury(self, burial: Burial) -> None:
        """Have ``burial`` called for a stream that is gone. The only one that a finaliser may call."""
        self._word.put(burial)

    def _work(self) -> None:
        while True:
            try:
                burial = self._word.get(timeout=LINGER)
            except Empty:
                with self._lock:
                    if not self._under_way:
                        self._thread = None
                        return
                continue
            self.dismiss()
            try:
                burial()
            except BaseException:  # there is nobody to raise it to, and others are to be buried
                _log.exception("crewbus-litellm: telling that a stream was abandoned failed")
            del burial  # or it would be held until the next


undertaker: Final = Undertaker()

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=undertaker.reset)
