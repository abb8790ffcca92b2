"""Callbacks around ``akickoff``: the coroutines that they return are awaited (crewAI#7607)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

from crewai import Crew

from crewbus_crewai.context import held
from crewbus_crewai.patched.kickoffs import delegates, kickoff_async

_done: Final[ContextVar[tuple[Any, ...]]] = ContextVar("crewbus_crewai_done", default=())
"""The lists of callbacks that crewAI must not call in this context, because they are called here."""


class _Callbacks(list[Any]):
    """A crew's callbacks, which are none in a context where they have been called."""

    def __iter__(self) -> Iterator[Any]:
        return iter(()) if any(one is self for one in _done.get()) else super().__iter__()


async def kickoff(wrapped: Any, crew: Crew, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Kick off a crew in a run, and await what its callbacks return."""
    if delegates(crew, args, kwargs):
        return await wrapped(*args, **kwargs)

    def called_back(*args: Any, **kwargs: Any) -> Any:
        return _called_back(wrapped, crew, args, kwargs)

    return await kickoff_async(called_back, crew, args, kwargs)


async def _called_back(wrapped: Any, crew: Crew, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Kick off a crew. All its callbacks before the kickoff are called here, if one of them is async."""
    before, after = _hideable(crew, "before_kickoff_callbacks"), _hideable(crew, "after_kickoff_callbacks")
    if not any(map(_is_async, list.__iter__(before))):
        with held(_done, (*_done.get(), after)):
            return await wrapped(*args, **kwargs)
    return await _prepared(wrapped, (before, after), *args, **kwargs)


async def _prepared(
    wrapped: Any, done: tuple[_Callbacks, _Callbacks], inputs: Any = None, *args: Any, **kwargs: Any
) -> Any:
    for callback in list.__iter__(done[0]):
        inputs = callback({} if inputs is None else inputs)
        inputs = await inputs if inspect.isawaitable(inputs) else inputs
    with held(_done, (*_done.get(), *done)):
        return await wrapped(inputs, *args, **kwargs)


async def work(wrapped: Any, crew: Crew, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Execute the tasks of ``akickoff``, and call the callbacks that come after."""
    result = await wrapped(*args, **kwargs)
    callbacks = crew.after_kickoff_callbacks
    if isinstance(callbacks, _Callbacks) and any(one is callbacks for one in _done.get()):
        for callback in list.__iter__(callbacks):
            result = callback(result)
            result = await result if inspect.isawaitable(result) else result
    return result


def _hideable(crew: Crew, name: str) -> _Callbacks:
    """A crew's callbacks, in a list that can be hidden."""
    known = getattr(crew, name)
    if isinstance(known, _Callbacks):
        return known
    vars(crew)[name] = found = _Callbacks(known)
    return found


def _is_async(callback: Any) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)
