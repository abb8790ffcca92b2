"""Steps: what a recorded kickoff asks of models and tools, which a resumed one does not ask again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Coroutine
from typing import Any

from crewbus import Bus, Run
from crewbus_crewai._results import LOST, Result
from crewbus_crewai._served import live_run


def as_step(bus: Bus, name: str, key: Callable[[], str], call: Callable[[], Any], model: Any = None) -> Any:
    """What ``call()`` returns, or in a resumed run what it had returned; only called where nothing is recorded.

    ``model`` is the type of the result where that is a model of pydantic's.
    """
    run = _recorded(bus)
    if run is None:
        return call()
    live: list[Any] = []

    def work() -> Any:
        live.append(call())
        return Result.of(live[0], model).recorded

    kept = Result.kept(run.step(name, work, key=key()))
    return live[0] if live else call() if kept.kind == LOST else kept.restored(model)


async def as_step_async(
    bus: Bus, name: str, key: Callable[[], str], call: Callable[[], Coroutine[Any, Any, Any]], model: Any = None
) -> Any:
    """As `as_step`."""
    run = _recorded(bus)
    if run is None:
        return await call()
    live: list[Any] = []

    async def work() -> Any:
        live.append(await call())
        return Result.of(live[0], model).recorded

    kept = Result.kept(await run.step(name, work, key=key()))
    return live[0] if live else await call() if kept.kind == LOST else kept.restored(model)


def _recorded(bus: Bus) -> Run | None:
    run = live_run(bus)
    return run if run is not None and run.recorded else None


def digest(*parts: Any) -> str:
    """What tells one call from others: 24 hex digits of what was asked."""
    text = json.dumps(parts, default=lambda thing: type(thing).__qualname__, skipkeys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
