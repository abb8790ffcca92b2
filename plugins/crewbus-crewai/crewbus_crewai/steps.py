"""Steps: what a recorded kickoff asks of models and tools, which a resumed one does not ask again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Coroutine
from typing import Any

from crewbus import Bus, Run
from crewbus_crewai.context import live_run
from crewbus_crewai.results import LOST, Result

Recalled = Callable[[], None] | None


def as_step(
    bus: Bus, name: str, key: Callable[[], str], call: Callable[[], Any], model: Any = None, recalled: Recalled = None
) -> Any:
    """What ``call()`` returns, or in a resumed run what it had returned; only called where nothing is recorded.

    ``model`` is the type of the result where that is a model of pydantic's; ``recalled()`` is called in the stead of
    ``call()``.
    """
    run = _recorded(bus)
    if run is None:
        return call()
    live: list[Any] = []

    def work() -> Any:
        live.append(call())
        return Result.of(live[0], model).recorded

    kept = Result.kept(run.step(name, work, key=key()))
    if live:
        return live[0]
    return call() if kept.kind == LOST else _recall(kept, model, recalled)


async def as_step_async(
    bus: Bus,
    name: str,
    key: Callable[[], str],
    call: Callable[[], Coroutine[Any, Any, Any]],
    model: Any = None,
    recalled: Recalled = None,
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
    if live:
        return live[0]
    return await call() if kept.kind == LOST else _recall(kept, model, recalled)


def _recall(kept: Result, model: Any, recalled: Recalled) -> Any:
    if recalled is not None:
        recalled()
    return kept.restored(model)


def _recorded(bus: Bus) -> Run | None:
    run = live_run(bus)
    return run if run is not None and run.recorded else None


def digest(*parts: Any) -> str:
    """What tells one call from others: 24 hex digits of what was asked."""
    text = "\n".join(map(_text, parts))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _text(part: Any) -> str:
    """``part`` in JSON, with types in the place of objects; only its own type where it holds a circle, or too much."""
    try:
        return json.dumps(part, default=lambda thing: type(thing).__qualname__, skipkeys=True)
    except (ValueError, RecursionError):
        return type(part).__qualname__
