"""Generators, coroutines and async generators whose every step runs in one context of their own."""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final, NamedTuple

from crewbus._util import is_kind

Begin = Callable[..., tuple[Context, Any]]
"""Calls a function in a new context, and returns that context and what the function returned."""


def _steps_in(context: Context, steps: Any) -> Generator[Any, Any, Any]:
    """Advance a generator or coroutine in ``context``, whatever the context of the caller."""
    advance, value = steps.send, None
    try:
        while True:
            try:
                passed = context.run(advance, value)
            except StopIteration as stop:
                return stop.value
            try:
                advance, value = steps.send, (yield passed)
            except GeneratorExit:
                context.run(steps.close)
                raise
            except BaseException as error:
                advance, value = steps.throw, error
    finally:
        del value  # break the exception/traceback/frame reference cycle


@types.coroutine
def _await_in(context: Context, steps: Any) -> Generator[Any, Any, Any]:
    return (yield from _steps_in(context, steps))


def _generator(begin: Begin) -> Callable[..., Generator[Any, Any, Any]]:
    def bound(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from _steps_in(*begin(*args, **kwargs)))

    return bound


def _coroutine(begin: Begin) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def bound(*args: Any, **kwargs: Any) -> Any:
        return await _await_in(*begin(*args, **kwargs))

    return bound


def _async_generator(begin: Begin) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def bound(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        context, steps = begin(*args, **kwargs)
        advance, value = steps.asend, None
        try:
            while True:
                try:
                    passed = await _await_in(context, advance(value))
                except StopAsyncIteration:
                    return
                try:
                    advance, value = steps.asend, (yield passed)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    advance, value = steps.athrow, error
        finally:
            del value  # as in `_steps_in`
            await _await_in(context, steps.aclose())

    return bound


class Kind(NamedTuple):
    """A kind of function whose call returns something that is advanced step by step."""

    is_function: Callable[[Any], bool]
    is_result: Callable[[Any], bool]
    bind: Callable[[Begin], Callable[..., Any]]
    """A function of the same kind that advances what ``begin`` returns in the context that ``begin`` returns."""


KINDS: Final = (
    Kind(inspect.isasyncgenfunction, inspect.isasyncgen, _async_generator),
    Kind(inspect.iscoroutinefunction, inspect.iscoroutine, _coroutine),
    Kind(inspect.isgeneratorfunction, inspect.isgenerator, _generator),
)


def kind_of(function: Callable[..., Any]) -> Kind | None:
    """The kind of ``function``, or None for one that just returns."""
    return next((kind for kind in KINDS if is_kind(function, kind.is_function)), None)


STEPPED: Final = (types.AsyncGeneratorType, types.CoroutineType, types.GeneratorType)
"""The types of what is advanced step by step."""


def kind_of_result(result: Any) -> Kind:
    """The kind of function that returns such a result, an instance of `STEPPED`."""
    return next(kind for kind in KINDS if kind.is_result(result))
