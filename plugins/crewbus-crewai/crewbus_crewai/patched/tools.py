"""Tools: in a recorded kickoff each use is a step; a tool sees the context of its caller."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import wrapt
from crewai.tools.structured_tool import CrewStructuredTool

import crewbus
from crewbus_crewai.integration import contained, integration
from crewbus_crewai.patch_set import bound_to
from crewbus_crewai.patched.steps import as_step, as_step_async, digest


def run(wrapped: Any, tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Use a tool."""
    return _step(tool, (args, kwargs), partial(wrapped, *args, **kwargs))


async def run_async(wrapped: Any, tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `run`."""
    return await _step_async(tool, (args, kwargs), partial(wrapped, *args, **kwargs))


def invoke(wrapped: Any, tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Use a structured tool, the form that agents use."""
    return _step(tool, _input(args, kwargs), partial(wrapped, *args, **kwargs))


async def invoke_async(wrapped: Any, tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `invoke`; a sync function, which crewAI runs in an executor, sees this context."""
    if not inspect.iscoroutinefunction(tool.func):
        wrapped = bound_to(wrapped, _InContext(tool))
    return await _step_async(tool, _input(args, kwargs), partial(wrapped, *args, **kwargs))


class _InContext(wrapt.ObjectProxy):  # type: ignore[type-arg]  # wrapt 1 has no generic proxy
    """A tool whose function runs in the current context."""

    def __init__(self, tool: Any) -> None:
        super().__init__(tool)
        self._self_func = crewbus.bind(tool.func)

    @property
    def func(self) -> Any:
        return self._self_func


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The input of a tool, without the config beside it, which differs from process to process."""
    return args[0] if args else kwargs.get("input")


def _step(tool: Any, tool_input: Any, use: partial[Any]) -> Any:
    bus = integration.bus_in_scope()
    if bus is None:
        return use()
    return as_step(bus, f"tool {tool.name}", partial(digest, tool_input), use, on_replay=partial(_count_use, tool))


async def _step_async(tool: Any, tool_input: Any, use: partial[Any]) -> Any:
    bus = integration.bus_in_scope()
    if bus is None:
        return await use()
    key = partial(digest, tool_input)
    return await as_step_async(bus, f"tool {tool.name}", key, use, on_replay=partial(_count_use, tool))


def _count_use(tool: Any) -> None:
    """Count a use whose result was recorded, so that it counts for the tool's ``max_usage_count``."""
    with contained("counting the use of a tool"):
        if isinstance(tool, CrewStructuredTool):
            tool._increment_usage_count()
            return
        with tool._usage_lock:
            tool.current_usage_count += 1
