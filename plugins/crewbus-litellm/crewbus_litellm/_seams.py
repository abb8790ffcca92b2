"""Seams: where litellm is led through here.

What was found in litellm 1.106 to 1.109, from the outside in:

- ``litellm.completion`` and ``acompletion`` are dispatchers, which hand a call to native code or to
  ``litellm.main.completion`` and ``acompletion``, by references of their own;
- those are made by the decorator ``client``, which sees to caches, logging, and after a failure to retries:
  ``completion_with_retries`` calls ``completion`` again, ``acompletion_with_retries`` what is inside ``acompletion``;
- innermost is what calls a provider, or, where ``fallbacks=`` are given, ``acompletion`` again for each;
- ``acompletion`` runs ``completion(acompletion=True)`` in a thread, in a copy of the context; fallbacks and the Router
  run coroutines by ``run_async_function``, where a loop is running in a thread without the context.

So the outer layers open a call, unless they are part of one, and the innermost is a try.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from types import FunctionType
from typing import Any

from crewbus_litellm._answer import Answer, answer_of
from crewbus_litellm._gate import Gate, Lead
from crewbus_litellm._integration import contained, integration
from crewbus_litellm._observation import ANY, Observation, at_work, current
from crewbus_litellm._stream import watch

Stock = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


def place(undo: ExitStack) -> None:
    """Lead litellm through here, which must have been imported, and be as it is known."""
    for gate in _gates():
        gate.place()
        undo.callback(gate.remove)


@cache
def _gates() -> tuple[Gate, ...]:
    return tuple(Gate(function, lead) for function, lead in _seams())


def _seams() -> Iterator[tuple[FunctionType, Lead]]:
    litellm = importlib.import_module("litellm")
    main = importlib.import_module("litellm.main")
    router = _router()
    dispatch, wrapper, core = _layers(litellm.completion)
    yield from ((dispatch, _leading(_dispatched)), (wrapper, _leading(_called)), (core, _trying))
    dispatch, wrapper, core = _layers(litellm.acompletion)
    yield from ((dispatch, _leading_async(_dispatched)), (wrapper, _leading_async(_called)), (core, _trying_async))
    yield main.completion_with_retries, _leading(_retried)
    yield main.acompletion_with_retries, _leading_async(_retried)
    yield vars(router)["completion"], _leading(_routed)
    yield vars(router)["acompletion"], _leading_async(_routed)
    yield importlib.import_module("litellm.litellm_core_utils.asyncify").run_async_function, _carrying


def _layers(function: Any) -> tuple[FunctionType, FunctionType, FunctionType]:
    """The dispatcher, what ``client`` made, and what is in there; what tracers put between them is passed over."""
    layers = [function]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    dispatch, *_, wrapper, core = (layer for layer in layers if isinstance(layer, FunctionType))
    return dispatch, wrapper, core


def _router() -> type:
    """The class whose methods a ``litellm.Router`` runs: itself, or since 1.109 its core."""
    module = importlib.import_module("litellm.router")
    found: type = getattr(module, "PythonCore", module.Router)
    return found


# Which calls are observed


def _observe(args: Args, kwargs: Kwargs, passes: int = 0) -> Observation | None:
    bus = integration.bus_in_scope()
    if bus is not None:
        model = args[0] if args else kwargs.get("model")
        with contained("telling of a call"):
            return Observation(bus, model if isinstance(model, str) and model else "litellm", passes)
    return None


def _called(args: Args, kwargs: Kwargs, passes: int = 0) -> Observation | None:
    """A call, unless it is part of another."""
    if kwargs.get("litellm_logging_obj") is not None or kwargs.get("acompletion") is True:
        return None
    around = current.get()
    return None if around is not None and around.includes(kwargs) else _observe(args, kwargs, passes)


def _dispatched(args: Args, kwargs: Kwargs) -> Observation | None:
    """A call that will be made once more, of what the dispatcher hands it to."""
    return _called(args, kwargs, passes=1)


def _retried(args: Args, kwargs: Kwargs) -> Observation | None:
    """A call that will be made again and again."""
    return _called(args, kwargs, passes=ANY)


def _routed(args: Args, kwargs: Kwargs) -> Observation | None:
    """A call of the Router's, by the name of a group of models."""
    return _observe(args[1:], kwargs)  # the first is the Router


Begin = Callable[[Args, Kwargs], Observation | None]


def _leading(begin: Begin) -> Lead:
    """How a function is led that makes a call, if ``begin`` has it observed."""

    def lead(stock: Stock, args: Args, kwargs: Kwargs) -> Any:
        observation = begin(args, kwargs)
        if observation is None:
            return stock(*args, **kwargs)
        try:
            with at_work(observation):
                result = stock(*args, **kwargs)
        except BaseException as error:
            observation.fail(error)
            raise
        _take(result, observation)
        return result

    return lead


def _leading_async(begin: Begin) -> Lead:
    async def lead(stock: Stock, args: Args, kwargs: Kwargs) -> Any:
        observation = begin(args, kwargs)
        if observation is None:
            return await stock(*args, **kwargs)
        try:
            with at_work(observation):
                result = await stock(*args, **kwargs)
        except BaseException as error:
            observation.fail(error)
            raise
        _take(result, observation)
        return result

    return lead


def _take(result: Any, observation: Observation) -> None:
    """Tell what a call returned, or follow it where it is a stream."""
    from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper

    answer = Answer()
    with contained("reading a response"):
        if isinstance(result, CustomStreamWrapper):
            watch(result, observation)
            return
        answer = answer_of(result)
    observation.finish(answer)


# Tries


def _trying(stock: Stock, args: Args, kwargs: Kwargs) -> Any:
    observation = current.get()
    if observation is None:
        return stock(*args, **kwargs)
    before = observation.begin_try()
    try:
        result = stock(*args, **kwargs)
    except BaseException as error:
        observation.end_try(before, error)
        raise
    observation.end_try(before)
    return result


async def _trying_async(stock: Stock, args: Args, kwargs: Kwargs) -> Any:
    observation = current.get()
    if observation is None:
        return await stock(*args, **kwargs)
    before = observation.begin_try()
    try:
        result = await stock(*args, **kwargs)
    except BaseException as error:
        observation.end_try(before, error)
        raise
    observation.end_try(before)
    return result


def _carrying(stock: Stock, args: Args, kwargs: Kwargs) -> Any:
    """Let a coroutine that may run in a thread without context know which call it is part of."""
    observation = current.get()
    if observation is None:
        return stock(*args, **kwargs)
    function = args[0] if args else kwargs["async_function"]

    @functools.wraps(function)
    async def carried(*args: Any, **kwargs: Any) -> Any:
        with at_work(observation):
            return await function(*args, **kwargs)

    return stock(carried, *args[1:], **kwargs) if args else stock(**{**kwargs, "async_function": carried})
