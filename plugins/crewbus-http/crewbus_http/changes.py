"""Waiting for changes of a store, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crewbus import Bus

__all__ = ["Changes"]

LATEST: Final = 2.0
"""Seconds after which to look though nothing has changed: a lease may have ended."""
SOONEST: Final = 0.1
"""Seconds between two looks, however often the store changes."""


class Changes:
    """Tells tasks of one event loop when the store of a bus has changed. It watches the store once for all."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._event = asyncio.Event()
        self._unwatch: Callable[[], None] | None = None
        self._starting: asyncio.Task[None] | None = None

    def mark(self) -> asyncio.Event:
        """Take this before a look, and wait for it after: what changes in between is not missed."""
        return self._event

    async def wait(self, since: asyncio.Event | None = None) -> None:
        """Return once the store may have changed since then; None: since now."""
        event = self._event if since is None else since
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._watch())
        await asyncio.shield(self._starting)
        await asyncio.sleep(SOONEST)
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), LATEST)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()

        def notify() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self.tell)

        self._unwatch = await asyncio.to_thread(self._bus.store.watch, notify)

    def tell(self) -> None:
        """Have everyone who waits look."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def close(self) -> None:
        """Watch no more."""
        if self._starting is not None:
            await asyncio.wait([self._starting])
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            await asyncio.to_thread(unwatch)
