"""Steps: a resumed kickoff does not repeat the recorded calls of models and tools."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

from crewbus import Bus, Run
from crewbus_crewai.context import live_run
from crewbus_crewai.patched.results import LOST, Result

_AROUND: Final = 1024
"""The bytes that an event has around the result of its step."""

OnReplay = Callable[[], None] | None


def as_step(
    bus: Bus, name: str, key: Callable[[], str], call: Callable[[], Any], model: Any = None, on_replay: OnReplay = None
) -> Any:
    """Return the result of ``call()``, or in a resumed run the recorded result.

    ``model`` is the type of the result if that is a pydantic model; ``on_replay()`` is called if the result was
    recorded.
    """
    run = _recorded(bus)
    if run is None:
        return call()
    live: list[Any] = []

    def work() -> Any:
        live.append(call())
        return _recordable(bus, name, Result.of(live[0], model))

    kept = Result.kept(run.step(name, work, key=key()))
    if live:
        return live[0]
    return call() if kept.kind == LOST else _replayed(kept, model, on_replay)


async def as_step_async(
    bus: Bus,
    name: str,
    key: Callable[[], str],
    call: Callable[[], Coroutine[Any, Any, Any]],
    model: Any = None,
    on_replay: OnReplay = None,
) -> Any:
    """As `as_step`, for a coroutine function."""
    run = _recorded(bus)
    if run is None:
        return await call()
    live: list[Any] = []

    async def work() -> Any:
        live.append(await call())
        return _recordable(bus, name, Result.of(live[0], model))

    kept = Result.kept(await run.step(name, work, key=key()))
    if live:
        return live[0]
    return await call() if kept.kind == LOST else _replayed(kept, model, on_replay)


def _recordable(bus: Bus, name: str, result: Result) -> Any:
    """The result as its step records it: a lost one, if it is larger than an event may be."""
    recorded = result.recorded
    size = len(json.dumps(recorded, ensure_ascii=False).encode()) + len(name.encode()) + _AROUND
    if size <= bus.recording.options.max_event_bytes:
        return recorded
    return Result(LOST, f"{size} bytes of JSON, more than one event may have").recorded


def _replayed(kept: Result, model: Any, on_replay: OnReplay) -> Any:
    if on_replay is not None:
        on_replay()
    return kept.restored(model)


def _recorded(bus: Bus) -> Run | None:
    run = live_run(bus)
    return run if run is not None and run.recorded else None


def digest(*parts: Any) -> str:
    """A fingerprint of a call's arguments: 24 hex digits."""
    text = "\n".join(map(_text, parts))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _text(part: Any) -> str:
    """``part`` in JSON, with types in place of objects; only its own type if it is cyclic or too deep."""
    try:
        return json.dumps(part, default=lambda thing: type(thing).__qualname__, skipkeys=True)
    except (ValueError, RecursionError):
        return type(part).__qualname__
