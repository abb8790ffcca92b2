"""Event loops: the running one, and calls from other threads."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None. Does not load asyncio."""
    events = sys.modules.get("asyncio.events")
    return events._get_running_loop() if events is not None else None


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Schedule ``call`` on ``loop``, from any thread. Does nothing if the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


def settle(future: asyncio.Future[None]) -> None:
    """Complete ``future`` unless it is done; called on its loop."""
    if not future.done():
        future.set_result(None)
