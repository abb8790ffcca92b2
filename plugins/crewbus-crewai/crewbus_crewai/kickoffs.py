"""Kickoffs: each is a run, nested in the one around it."""

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
from crewbus_crewai.checkpoints import forget, is_ours
from crewbus_crewai.context import held
from crewbus_crewai.integration import contained, integration
from crewbus_crewai.runtime_state import runtime_scope

KIND: Final = "crewai"
"""The tag of a kickoff's run: "crew", "flow" or "agent"."""

_kickoffs: Final[ContextVar[tuple[Run, ...]]] = ContextVar("crewbus_crewai_kickoffs", default=())
"""The runs of the kickoffs that are at work here, the innermost last."""


def kicked_off(stock: Any, entity: Any, *args: Any, **kwargs: Any) -> Any:
    """Kick off ``entity`` in a run."""
    if _only_passes(entity, args, kwargs):
        return stock(entity, *args, **kwargs)
    with _run_of(entity):
        return stock(entity, *args, **kwargs)


async def kicked_off_async(stock: Any, entity: Any, *args: Any, **kwargs: Any) -> Any:
    """As `kicked_off`."""
    if _only_passes(entity, args, kwargs):
        return await stock(entity, *args, **kwargs)
    with _run_of(entity):
        return await stock(entity, *args, **kwargs)


def agent_kicked_off(stock: Any, agent: Any, *args: Any, **kwargs: Any) -> Any:
    """Kick off an agent in a run; on a loop crewAI hands out a coroutine, which will do so."""
    if _on_loop():
        return stock(agent, *args, **kwargs)
    with runtime_scope():
        return kicked_off(stock, agent, *args, **kwargs)


async def agent_kicked_off_async(stock: Any, agent: Any, *args: Any, **kwargs: Any) -> Any:
    """As `agent_kicked_off`."""
    with runtime_scope():
        return await kicked_off_async(stock, agent, *args, **kwargs)


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _only_passes(entity: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether another kickoff will follow, which does the work, or it is crewAI's own affair."""
    # With a stream of crewAI's a kickoff only hands that out, and kicks off again when it is iterated.
    if getattr(entity, "stream", False) or getattr(type(entity), "is_crewai_internal", False):
        return True
    given = (*args, *kwargs.values())
    return any(isinstance(one, CheckpointConfig) and one.restore_from is not None for one in given)


@contextmanager
def _run_of(entity: Any) -> Iterator[None]:
    bus = integration.bus_in_scope()
    with ExitStack() as stack:
        if bus is not None:
            with contained("opening the run of a kickoff"):
                run = _resumed(bus, entity) or stack.enter_context(_made(bus, entity))
                stack.callback(forget, run)
                stack.enter_context(held(_kickoffs, (*_kickoffs.get(), run)))
        yield


def _made(bus: Bus, entity: Any) -> Run:
    asked = crewbus.current_run(bus) is None and not bus.recording and is_ours(getattr(entity, "checkpoint", None))
    return bus.run(name_of(entity), tags={KIND: kind_of(entity)}, record=True if asked else None)


def _resumed(bus: Bus, entity: Any) -> Run | None:
    """The run in scope, where it is this very kickoff's, resumed by `crewbus.Bus.resume`."""
    run = crewbus.current_run(bus)
    if run is None or run.ended or not is_before(run):
        return None
    return run if (run.name, run.tags[KIND]) == (name_of(entity), kind_of(entity)) else None


def is_before(run: Run) -> bool:
    """Whether ``run`` is a kickoff's that was resumed, and that kickoff has not begun here, or is over."""
    return run.parent is None and KIND in run.tags and run not in _kickoffs.get()


def name_of(entity: Any) -> str:
    """What a kickoff's run is called."""
    return getattr(entity, "name", None) or getattr(entity, "role", None) or type(entity).__name__


def kind_of(entity: Any) -> str:
    """What is kicked off."""
    return "crew" if isinstance(entity, Crew) else "flow" if isinstance(entity, Flow) else "agent"
