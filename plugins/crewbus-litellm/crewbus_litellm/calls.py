"""Wrappers for litellm's functions: they report calls and tries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper

from crewbus_litellm.answer import Answer, answer_of
from crewbus_litellm.code_swap import Wrapper
from crewbus_litellm.integration import contained, integration
from crewbus_litellm.observation import UNLIMITED, Observation, current, working_on
from crewbus_litellm.stream import watch

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]
Begin = Callable[[Args, Kwargs], Observation | None]
"""Begins the observation of a call, by its arguments; None if the call is not reported."""


def reporting(begin: Begin) -> Wrapper:
    """A wrapper that reports a call of a sync function, if ``begin`` observes it."""

    def wrapper(original: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        observation = begin(args, kwargs)
        if observation is None:
            return original(*args, **kwargs)
        with _in_progress(observation):
            result = original(*args, **kwargs)
        _report_result(observation, result)
        return result

    return wrapper


def reporting_async(begin: Begin) -> Wrapper:
    """As `reporting`, for an async function."""

    async def wrapper(original: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        observation = begin(args, kwargs)
        if observation is None:
            return await original(*args, **kwargs)
        with _in_progress(observation):
            result = await original(*args, **kwargs)
        _report_result(observation, result)
        return result

    return wrapper


@contextmanager
def _in_progress(observation: Observation) -> Iterator[None]:
    try:
        with working_on(observation):
            yield
    except BaseException as error:
        observation.fail(error)
        raise


def _report_result(observation: Observation, result: Any) -> None:
    answer = Answer()
    with contained("reading a response"):
        if isinstance(result, CustomStreamWrapper):
            watch(result, observation)
            return
        answer = answer_of(result)
    observation.finish(answer)


# Which calls are observed


def direct_call(args: Args, kwargs: Kwargs, internal_calls: int = 0) -> Observation | None:
    """Observe a call of ``completion``, unless litellm makes it as part of another call."""
    if kwargs.get("litellm_logging_obj") is not None or kwargs.get("acompletion") is True:
        return None
    outer = current.get()
    return None if outer is not None and outer.includes(kwargs) else _observe(args, kwargs, internal_calls)


def dispatched_call(args: Args, kwargs: Kwargs) -> Observation | None:
    """Observe a call of the dispatcher, which calls ``completion`` once."""
    return direct_call(args, kwargs, internal_calls=1)


def retried_call(args: Args, kwargs: Kwargs) -> Observation | None:
    """Observe a call of a function that calls ``completion`` for each retry."""
    return direct_call(args, kwargs, internal_calls=UNLIMITED)


def router_call(args: Args, kwargs: Kwargs) -> Observation | None:
    """Observe a call of a Router's method; the model is the name of a group."""
    return _observe(args[1:], kwargs)  # without self


def _observe(args: Args, kwargs: Kwargs, internal_calls: int = 0) -> Observation | None:
    bus = integration.bus_in_scope()
    if bus is not None:
        model = args[0] if args else kwargs.get("model")
        with contained("reporting a call"):
            return Observation(bus, model if isinstance(model, str) and model else "litellm", internal_calls)
    return None


# Tries


def trying(original: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """Report a request to a provider as a try of the current call."""
    with _a_try():
        return original(*args, **kwargs)


async def trying_async(original: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """As `trying`, for an async function."""
    with _a_try():
        return await original(*args, **kwargs)


@contextmanager
def _a_try() -> Iterator[None]:
    observation = current.get()
    if observation is None:
        yield
        return
    before = observation.begin_try()
    try:
        yield
    except BaseException as error:
        observation.end_try(before, error)
        raise
    observation.end_try(before)


def carrying(original: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """Carry the current call into a coroutine function that litellm may run in a thread without the context."""
    observation = current.get()
    if observation is None:
        return original(*args, **kwargs)
    function = args[0] if args else kwargs["async_function"]

    @functools.wraps(function)
    async def carried(*args: Any, **kwargs: Any) -> Any:
        with working_on(observation):
            return await function(*args, **kwargs)

    return original(carried, *args[1:], **kwargs) if args else original(**{**kwargs, "async_function": carried})
