"""Recall: in a recorded kickoff what memory and knowledge answer is a step, and so is what memory saves."""

from __future__ import annotations

from functools import partial
from typing import Any

from crewai.memory.types import MemoryMatch, MemoryRecord

from crewbus_crewai.integration import integration
from crewbus_crewai.patched.steps import as_step, as_step_async, digest


def recall(wrapped: Any, memory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Recall from a memory."""
    return _step("memory", wrapped, args, kwargs, MemoryMatch)


def save(wrapped: Any, memory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Analyse and store memories."""
    return _step("memory save", wrapped, args, kwargs, MemoryRecord)


def query(wrapped: Any, knowledge: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Query knowledge."""
    return _step("knowledge", wrapped, args, kwargs)


async def query_async(wrapped: Any, knowledge: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `query`."""
    bus = integration.bus_in_scope()
    if bus is None:
        return await wrapped(*args, **kwargs)
    return await as_step_async(bus, "knowledge", partial(digest, args, kwargs), partial(wrapped, *args, **kwargs))


def _step(name: str, wrapped: Any, args: tuple[Any, ...], kwargs: dict[str, Any], model: Any = None) -> Any:
    bus = integration.bus_in_scope()
    if bus is None:
        return wrapped(*args, **kwargs)
    return as_step(bus, name, partial(digest, args, kwargs), partial(wrapped, *args, **kwargs), model)
