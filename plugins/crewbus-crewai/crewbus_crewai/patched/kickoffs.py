"""Kickoffs: each is a run, nested in the run in scope."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Final

from crewai import Crew
from crewai.flow.runtime import Flow
from crewai.state.checkpoint_config import CheckpointConfig

import crewbus
from crewbus import Bus, Run
from crewbus_crewai.context import held
from crewbus_crewai.integration import contained, integration
from crewbus_crewai.patched.checkpoints import forget, kept_in_record
from crewbus_crewai.patched.runtime_state import runtime_scope
from crewbus_crewai.patched.steps import digest

KIND: Final = "crewai"
"""The tag of a kickoff's run: "crew", "flow" or "agent"."""

_kickoffs: Final[ContextVar[tuple[Run, ...]]] = ContextVar("crewbus_crewai_kickoffs", default=())
"""The runs of the kickoffs in this context, the innermost last."""


def kickoff(wrapped: Any, entity: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Kick off ``entity`` in a run."""
    if delegates(entity, args, kwargs):
        return wrapped(*args, **kwargs)
    with _run_of(entity, _key_of(args, kwargs)):
        return wrapped(*args, **kwargs)


async def kickoff_async(wrapped: Any, entity: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `kickoff`."""
    if delegates(entity, args, kwargs):
        return await wrapped(*args, **kwargs)
    with _run_of(entity, _key_of(args, kwargs)):
        return await wrapped(*args, **kwargs)


def agent_kickoff(wrapped: Any, agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Kick off an agent in a run; on an event loop crewAI returns a coroutine that does so."""
    if _on_loop():
        return wrapped(*args, **kwargs)
    with runtime_scope():
        return kickoff(wrapped, agent, args, kwargs)


async def agent_kickoff_async(wrapped: Any, agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `agent_kickoff`."""
    with runtime_scope():
        return await kickoff_async(wrapped, agent, args, kwargs)


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def delegates(entity: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether another kickoff will do the work, or the kickoff is internal to crewAI."""
    # With `stream` a kickoff only returns a stream, which kicks off again when it is iterated.
    if getattr(entity, "stream", False) or getattr(type(entity), "is_crewai_internal", False):
        return True
    values = (*args, *kwargs.values())
    return any(isinstance(value, CheckpointConfig) and value.restore_from is not None for value in values)


@contextmanager
def _run_of(entity: Any, key: str | None) -> Iterator[None]:
    bus = integration.bus_in_scope()
    with ExitStack() as stack:
        if bus is not None:
            with contained("opening the run of a kickoff"):
                run = _resumed_run(bus, entity) or stack.enter_context(_new_run(bus, entity, key))
                stack.callback(forget, run)
                stack.enter_context(held(_kickoffs, (*_kickoffs.get(), run)))
        yield


def _key_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """What distinguishes a kickoff from others of its crew at the same time: its inputs."""
    return digest(args, kwargs) if args or kwargs else None


def _new_run(bus: Bus, entity: Any, key: str | None) -> Run:
    is_root = crewbus.current_run(bus) is None
    record = is_root and not bus.recording.armed and kept_in_record(getattr(entity, "checkpoint", None))
    return bus.run(
        name_of(entity),
        key=None if is_root else key,
        tags={KIND: kind_of(entity)},
        record=True if record else None,
    )


def _resumed_run(bus: Bus, entity: Any) -> Run | None:
    """The run in scope, if `crewbus.Bus.resume` resumed it for this kickoff."""
    run = crewbus.current_run(bus)
    if run is None or run.ended or not awaits_kickoff(run):
        return None
    return run if (run.name, run.tags[KIND]) == (name_of(entity), kind_of(entity)) else None


def awaits_kickoff(run: Run) -> bool:
    """Whether ``run`` is the resumed run of a kickoff that has not started in this context, or has ended."""
    return run.parent is None and KIND in run.tags and run not in _kickoffs.get()


def name_of(entity: Any) -> str:
    """The name of a kickoff's run."""
    return getattr(entity, "name", None) or getattr(entity, "role", None) or type(entity).__name__


def kind_of(entity: Any) -> str:
    """The kind of what is kicked off."""
    return "crew" if isinstance(entity, Crew) else "flow" if isinstance(entity, Flow) else "agent"
