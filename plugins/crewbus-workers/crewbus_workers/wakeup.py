"""Waking a task of an event loop from any thread."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Wakeup:
    """What a task waits for, and what the watcher of a store calls. Made on the loop of the task."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the task, from any thread; nothing happens once its loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        """Forget what has woken it, before looking again."""
        self._event.clear()

    async def wait(self, seconds: float) -> None:
        """Return when it is woken, or after ``seconds``."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
