"""Wrappers for litellm's functions: they report calls and tries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any, Final, NamedTuple

import crewbus
from crewbus_litellm.answer import Answer, answer_of
from crewbus_litellm.code_swap import Wrapper
from crewbus_litellm.integration import contained, integration
from crewbus_litellm.observation import UNLIMITED, Observation, current, working_on
from crewbus_litellm.stream import is_stream, watch
from crewbus_litellm.transcript import Completion, Messages, Responses, Transcript

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


class Api(NamedTuple):
    """What differs between the functions that ask a model."""

    model_at: int
    """The position of the model among the arguments."""
    transcript: Callable[[], Transcript]
    """Makes the transcript of a stream."""


COMPLETION: Final = Api(0, Completion)
TEXT_COMPLETION: Final = Api(1, Completion)
EMBEDDING: Final = Api(0, Completion)
RESPONSES: Final = Api(1, Responses)
MESSAGES: Final = Api(2, Messages)

Begin = Callable[[Api, Args, Kwargs], Observation | None]
"""Begins the observation of a call, by its arguments; None if the call is not reported."""


def reporting(begin: Begin, api: Api) -> Wrapper:
    """A wrapper that reports a call of a sync function, if ``begin`` observes it."""

    def wrapper(original: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        observation = begin(api, args, kwargs)
        if observation is None:
            return original(*args, **kwargs)
        with _in_progress(observation):
            result = original(*args, **kwargs)
        return _reported(api, observation, result)

    return wrapper


def reporting_async(begin: Begin, api: Api) -> Wrapper:
    """As `reporting`, for an async function."""

    async def wrapper(original: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        observation = begin(api, args, kwargs)
        if observation is None:
            return await original(*args, **kwargs)
        with _in_progress(observation):
            result = await original(*args, **kwargs)
        return _reported(api, observation, result)

    return wrapper


@contextmanager
def _in_progress(observation: Observation) -> Iterator[None]:
    try:
        with working_on(observation):
            yield
    except BaseException as error:
        observation.fail(error)
        raise


def _reported(api: Api, observation: Observation, result: Any) -> Any:
    """The result, after its answer was reported; a stream whose parts will be."""
    answer = Answer()
    with contained("reading a response"):
        if is_stream(result):
            return watch(result, observation, api.transcript())
        answer = answer_of(result)
    observation.finish(answer)
    return result


# Which calls are observed


ASYNC_FLAGS: Final = ("acompletion", "aembedding", "aresponses", "is_async")
"""The arguments with which the async form of a function calls the sync one."""


def direct_call(api: Api, args: Args, kwargs: Kwargs, internal_calls: int = 0) -> Observation | None:
    """Observe a call of ``completion`` or its like, unless litellm makes it as part of another call."""
    if kwargs.get("litellm_logging_obj") is not None or _only_prepares(kwargs):
        return None
    outer = current.get()
    return None if outer is not None and outer.includes(kwargs) else _observe(api, args, kwargs, internal_calls)


def _only_prepares(kwargs: Kwargs) -> bool:
    """Whether a sync function is called by its async form, which awaits what it returns."""
    return any(kwargs.get(flag) is True for flag in ASYNC_FLAGS)


def dispatched_call(api: Api, args: Args, kwargs: Kwargs) -> Observation | None:
    """Observe a call of the dispatcher, which calls ``completion`` or its like once."""
    return direct_call(api, args, kwargs, internal_calls=1)


def retried_call(api: Api, args: Args, kwargs: Kwargs) -> Observation | None:
    """Observe a call of a function that calls ``completion`` or its like for each retry."""
    return direct_call(api, args, kwargs, internal_calls=UNLIMITED)


def router_call(api: Api, args: Args, kwargs: Kwargs) -> Observation | None:
    """Observe a call of a Router's method; the model is the name of a group, and the first argument."""
    return _observe(api._replace(model_at=0), args[1:], kwargs)  # without self


def _observe(api: Api, args: Args, kwargs: Kwargs, internal_calls: int = 0) -> Observation | None:
    bus = integration.bus_in_scope()
    if bus is not None:
        model = args[api.model_at] if len(args) > api.model_at else kwargs.get("model") or kwargs.get("engine")
        with contained("reporting a call"):
            return Observation(bus, model if isinstance(model, str) and model else "litellm", internal_calls)
    return None


# Tries


def trying(original: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """Report a request to a provider as a try of the current call."""
    if _only_prepares(kwargs):
        return original(*args, **kwargs)
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


# Batches


def batching(original: Any, args: Args, kwargs: Kwargs) -> Any:
    """Call a function that calls ``litellm.completion`` in threads: each sees the caller's context, and so its run."""
    variables = original.__globals__
    carried = _Carrying(variables["litellm"])
    function = FunctionType(original.__code__, {**variables, "litellm": carried}, original.__name__)
    function.__defaults__, function.__kwdefaults__ = original.__defaults__, original.__kwdefaults__
    return function(*args, **kwargs)


class _Carrying:
    """litellm, with a ``completion`` that runs in the context in which this was made."""

    def __init__(self, litellm: Any) -> None:
        self._litellm = litellm
        self.completion = crewbus.bind(litellm.completion)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._litellm, name)
