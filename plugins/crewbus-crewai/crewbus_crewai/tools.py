"""Tools: steps of a recorded kickoff, which see the context of whoever calls them."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from crewai.tools.structured_tool import CrewStructuredTool

import crewbus
from crewbus_crewai.integration import contained, integration
from crewbus_crewai.steps import as_step, as_step_async, digest


def used(stock: Any, tool: Any, *args: Any, **kwargs: Any) -> Any:
    """Use a tool."""
    return _step(tool, (args, kwargs), partial(stock, tool, *args, **kwargs))


async def used_async(stock: Any, tool: Any, *args: Any, **kwargs: Any) -> Any:
    """As `used`."""
    return await _step_async(tool, (args, kwargs), partial(stock, tool, *args, **kwargs))


def invoked(stock: Any, tool: Any, *args: Any, **kwargs: Any) -> Any:
    """Use a tool in the form in which agents have it."""
    return _step(tool, _input(args, kwargs), partial(stock, tool, *args, **kwargs))


async def invoked_async(stock: Any, tool: Any, *args: Any, **kwargs: Any) -> Any:
    """As `invoked`; a function that crewAI hands to an executor is called in this context."""
    shown = tool if inspect.iscoroutinefunction(tool.func) else _Bound(tool)
    return await _step_async(tool, _input(args, kwargs), partial(stock, shown, *args, **kwargs))


class _Bound:
    """A tool whose function is bound to the context in which this was made; in all else the tool itself."""

    def __init__(self, tool: Any) -> None:
        self._tool = tool
        self.func = crewbus.bind(tool.func)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tool, name)


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the tool is given; beside it stand fingerprints, of which no two are the same."""
    return args[0] if args else kwargs.get("input")


def _step(tool: Any, given: Any, use: partial[Any]) -> Any:
    bus = integration.bus_in_scope()
    if bus is None:
        return use()
    return as_step(bus, f"tool {tool.name}", partial(digest, given), use, recalled=partial(_count, tool))


async def _step_async(tool: Any, given: Any, use: partial[Any]) -> Any:
    bus = integration.bus_in_scope()
    if bus is None:
        return await use()
    key = partial(digest, given)
    return await as_step_async(bus, f"tool {tool.name}", key, use, recalled=partial(_count, tool))


def _count(tool: Any) -> None:
    """Count a use that is not made again, so that a tool is not used more often than it may be."""
    with contained("counting the use of a tool"):
        if isinstance(tool, CrewStructuredTool):
            tool._increment_usage_count()
            return
        with tool._usage_lock:
            tool.current_usage_count += 1
