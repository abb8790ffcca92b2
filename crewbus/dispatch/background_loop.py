"""An event loop in a thread of its own, for async handlers whose emitter has no loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crewbus._util import Latch, call_on, reentrant_lock, running_loop, start_daemon
from crewbus.exceptions import BusClosedError
from crewbus.scopes import Deferring

if TYPE_CHECKING:
    import asyncio

Begin = Callable[[Any], object]
"""Begins something on the loop that it is called with."""


class BackgroundLoop:
    """An event loop in a daemon thread, which starts at the first call.

    The thread imports asyncio and makes the loop. An interrupt in the middle of that import would leave asyncio
    unusable, and signal handlers run in the main thread only. Where no thread can start, the calls wait for the next
    `start`, or for `run_here`.
    """

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = reentrant_lock()
        self._calls: deque[Begin] = deque()
        self._started: Latch | None = None
        """Opens once the thread that starts has published its loop, or has failed to."""
        self.stopped = False
        """Whether it makes no more calls."""

    def call(self, begin: Begin) -> None:
        """Call ``begin(loop)`` on the loop, once there is one. Raises `BusClosedError` once it is stopped."""
        with Deferring(self._lock), self._lock:
            if self.stopped:
                raise BusClosedError("the bus was closed before its event loop could be used")
            self._calls.append(begin)
        self.start()

    def start(self) -> bool:
        """Start the thread if it does not run, and have it make the calls; returns whether it can."""
        if self._loop is None:
            self._start_thread()
            if self._started is not None:
                self._started.wait()  # a process that forks next then has all of asyncio, not a part
        loop = self._loop
        if loop is not None and self._calls:
            call_on(loop, self.make_calls)
        return loop is not None

    def _start_thread(self) -> None:
        with Deferring(self._lock), self._lock:
            if self.thread is not None or self.stopped:
                return
            started = Latch()
            try:
                thread = start_daemon("crewbus-background", self._serve, started)
            except RuntimeError:  # the system has no thread left, or the interpreter is ending
                return
            self.thread, self._started = thread, started

    def _serve(self, started: Latch) -> None:
        try:
            if not self._is_first():
                return
            import asyncio

            loop = asyncio.new_event_loop()
            self._loop = loop
        except Exception:  # no file descriptor is left, for example: the calls wait, as without a thread
            self.thread = None
            return
        finally:
            started.open()
        loop.call_soon(self._finish if self.stopped else self.make_calls)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _is_first(self) -> bool:
        """Whether no other thread serves; an interrupt may have kept the one that started this from noting it."""
        with self._lock:
            if self.thread is None and not self.stopped:
                self.thread = threading.current_thread()
            return self.thread is threading.current_thread()

    def make_calls(self) -> None:
        """Make the calls that wait, on the running loop."""
        import asyncio  # loaded: this runs on a loop

        loop = asyncio.get_running_loop()
        while self._calls:
            self._calls.popleft()(loop)

    def runs_here(self) -> bool:
        """Whether the caller runs on the loop."""
        return self.thread is threading.current_thread()

    @property
    def has_calls(self) -> bool:
        """Whether calls wait for a loop."""
        return bool(self._calls)

    def run_here(self, timeout: float | None) -> None:
        """Make the calls that wait in this thread, and wait for what they begin: no thread can start."""
        import asyncio

        async def serve() -> None:
            self.make_calls()
            begun = asyncio.all_tasks() - {asyncio.current_task()}
            if begun:
                await asyncio.wait(begun, timeout=timeout)

        asyncio.run(serve())

    def stop(self, timeout: float) -> bool:
        """End the loop, cancelling what still runs on it; returns whether its thread ends in time."""
        with Deferring(self._lock), self._lock:
            self.stopped = True
            loop, thread = self._loop, self.thread
        if loop is not None:
            call_on(loop, self._finish)
        is_elsewhere = thread is not None and thread is not threading.current_thread()
        if thread is not None and is_elsewhere:
            thread.join(timeout)
        self._loop = self.thread = None  # only now, since another call finishes one that was interrupted
        if thread is not None and is_elsewhere and thread.is_alive():
            return False
        if self._calls:  # no thread could start: what they begin is cancelled, and so reported
            if running_loop() is not None:
                self.make_calls()
            else:
                self.run_here(0)
        return True

    def _finish(self) -> None:
        """Cancel what runs on the loop, and stop the loop."""
        import asyncio

        self.make_calls()  # what they begin is cancelled, and so reported
        loop = asyncio.get_running_loop()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        asyncio.ensure_future(asyncio.wait(tasks) if tasks else asyncio.sleep(0)).add_done_callback(
            lambda _: loop.stop()
        )

    def abandon(self) -> None:
        """End the loop, on which nothing runs, for a finaliser: without waiting, and without a lock."""
        self.stopped = True
        loop = self._loop
        if loop is not None:
            call_on(loop, loop.stop)
