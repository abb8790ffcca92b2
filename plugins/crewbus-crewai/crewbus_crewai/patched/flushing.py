"""Flushing: crewAI's ``flush`` waits for all handlers of an event."""

from __future__ import annotations

from functools import partial
from typing import Any

from crewai.events.event_bus import CrewAIEventsBus

from crewbus_crewai.patch_set import PatchSet, Wrapper


def tracking(patches: PatchSet) -> Wrapper:
    """A wrapper for the method that makes crewAI's pool: each handler in the pool is waited for.

    crewAI only keeps the future of the async handlers of an event, if it has sync ones too.
    """

    def make_pool(wrapped: Any, events: CrewAIEventsBus, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        pool = events._sync_executor
        if "submit" not in vars(pool):
            with events._instance_lock:
                if "submit" not in vars(pool):
                    patches.wrap(pool, "submit", partial(_submit, events))

    return make_pool


def _submit(events: CrewAIEventsBus, wrapped: Any, pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return events._track_future(wrapped(*args, **kwargs))
