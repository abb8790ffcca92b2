"""Wakers: how threads wake the tasks of an event loop."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from crewbus.scopes import threads

if TYPE_CHECKING:
    import asyncio


class LoopWaker:
    """Wakes waiting tasks of one event loop: across threads once per batch, not once per task."""

    __slots__ = ("future", "loop", "ready", "scheduled", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future = loop.create_future
        self.thread = threads.state
        self.ready: deque[asyncio.Future[None]] = deque()
        self.scheduled = False

    def wake(self, future: asyncio.Future[None]) -> None:
        """Complete ``future``, from any thread."""
        if threads.state is self.thread:
            self._settle(future)
            return
        # Append first, then check: `run` clears the flag before it empties the queue.
        self.ready.append(future)
        if not self.scheduled:
            self.scheduled = True
            try:
                self.loop.call_soon_threadsafe(self.run)
            except RuntimeError:  # the loop is closed, so no task waits on it
                self.ready.clear()

    def next_turn(self) -> asyncio.Future[None]:
        """A future that completes once the loop's other tasks have had a turn."""
        future = self.future()
        self.loop.call_soon(self._settle, future)
        return future

    def run(self) -> None:
        """Complete all futures that are ready; called on the loop."""
        self.scheduled = False
        while self.ready:
            self._settle(self.ready.popleft())

    @staticmethod
    def _settle(future: asyncio.Future[None]) -> None:
        if not future.done():
            try:
                future.set_result(None)
            except RuntimeError:  # the loop is closed, and its tasks are gone
                return


class _ThreadWaker(threading.local):
    waker: LoopWaker | None = None


_here: Final = _ThreadWaker()


def forget_wakers() -> None:
    """Forget the waker of the parent's loop, in a forked child."""
    _here.waker = None


def waker_of(loop: asyncio.AbstractEventLoop) -> LoopWaker:
    """The waker of ``loop``, which runs in this thread; all of its tasks share it."""
    waker = _here.waker
    if waker is None or waker.loop is not loop:
        waker = _here.waker = LoopWaker(loop)
    return waker
