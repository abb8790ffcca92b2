"""crewAI's flush returned at once, if an event has sync and async handlers."""

from __future__ import annotations

import threading

from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from helpers import TIMEOUT


class Mixed(BaseEvent):
    type: str = "mixed"


def test_flush_waits_for_the_sync_handlers_of_an_event_with_async_ones(active):
    go, done = threading.Event(), threading.Event()

    def slow(source, event):
        assert go.wait(TIMEOUT)
        done.set()

    async def other(source, event):
        pass

    for handler in (slow, other):
        crewai_event_bus.register_handler(Mixed, handler)
    try:
        crewai_event_bus.emit(None, Mixed()).result(TIMEOUT)
        assert crewai_event_bus.flush(0) is not active
        go.set()
        assert crewai_event_bus.flush(TIMEOUT)
        assert done.wait(TIMEOUT)
    finally:
        for handler in (slow, other):
            crewai_event_bus.off(Mixed, handler)
