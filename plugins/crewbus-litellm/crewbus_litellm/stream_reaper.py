"""The stream reaper: a thread that ends the calls whose streams were abandoned.

A finaliser notices that a stream was garbage collected. It may run in any thread at any moment, so it must neither take
a lock nor call handlers: it only puts a function on the reaper's queue.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import Final

from crewbus import reentrant_lock

_log = logging.getLogger("crewbus")

IDLE_SECONDS: Final = 5.0
"""How long the thread waits when no stream is open, before it ends."""


class StreamReaper:
    """Has one thread while streams are open and for `IDLE_SECONDS` after; none in a process without streams."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Start over in a forked child: the open streams and the thread belong to the parent."""
        self._lock = reentrant_lock()
        self._open = 0
        self._thread: threading.Thread | None = None
        self._abandoned: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def stream_opened(self) -> None:
        """Count a stream that may be abandoned, and start the thread if necessary."""
        with self._lock:
            self._open += 1
            if self._thread is None:
                # An empty context, not that of the caller who happens to stream first.
                thread = threading.Thread(target=Context().run, args=(self._work,), name="crewbus-litellm", daemon=True)
                thread.start()
                self._thread = thread

    def stream_ended(self) -> None:
        """Uncount a stream that ended or was abandoned."""
        with self._lock:
            self._open -= 1

    def reap(self, end_call: Callable[[], None]) -> None:
        """Call ``end_call`` in the thread, for an abandoned stream. Safe to call from a finaliser."""
        self._abandoned.put(end_call)

    def _work(self) -> None:
        while True:
            try:
                end_call = self._abandoned.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if not self._open:
                        self._thread = None
                        return
                continue
            self.stream_ended()
            try:
                end_call()
            except BaseException:  # no caller to raise it to, and other streams wait
                _log.exception("crewbus-litellm: reporting an abandoned stream failed")
            del end_call  # do not hold it while waiting for the next


reaper: Final = StreamReaper()

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=reaper.after_fork)
