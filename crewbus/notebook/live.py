"""A display of a stream that grows with it."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any, Final

from crewbus.exceptions import TargetError
from crewbus.streams import Stream

__all__ = ["live"]

_INTERVAL: Final = 0.1
"""How many seconds there are at least between two updates of a display: each sends all that is shown."""


async def live(stream: Stream) -> None:
    """Consume a stream to its end, and show it below the notebook's cell meanwhile: ``await live(stream)``.

    It enters and leaves the stream, so a stream that owns its run is cancelled if the cell is interrupted, and the
    failure of its work is raised once it is shown. Raises `TargetError` for what is no stream, and where IPython is not
    installed.
    """
    if not isinstance(stream, Stream):
        raise TargetError(f"live() takes a stream, such as bus.stream(function) returns; got {stream!r}")
    shown = _display(stream)
    grown = asyncio.Event()
    async with stream:
        updates = asyncio.ensure_future(_update(shown, stream, grown))
        try:
            async for _ in stream:
                grown.set()
        finally:
            updates.cancel()
            shown.update(stream)


async def _update(shown: Any, stream: Stream, grown: asyncio.Event) -> None:
    """Update the display whenever the stream has grown."""
    while True:
        await grown.wait()
        grown.clear()
        shown.update(stream)
        await asyncio.sleep(_INTERVAL)


def _display(stream: Stream) -> Any:
    """Show the stream, and return the handle that updates what is shown."""
    try:
        display = importlib.import_module("IPython.display").display
    except ImportError as error:
        raise TargetError("live() shows a stream in a notebook: python -m pip install ipykernel") from error
    return display(stream, display_id=True)
