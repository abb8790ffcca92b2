"""Patches: which functions of litellm are wrapped.

The layers of a call in litellm 1.106 to 1.110, from the outside in:

- ``litellm.completion`` and ``acompletion`` are dispatchers. They pass a call to native code, or to
  ``litellm.main.completion`` and ``acompletion``, of which they keep references.
- The decorator ``client`` produces those. It handles caches and logging, and retries after a failure:
  ``completion_with_retries`` calls ``completion`` again, ``acompletion_with_retries`` calls the function that
  ``client`` decorates.
- The decorated function calls a provider or, with ``fallbacks=``, calls ``acompletion`` for each fallback.
- ``acompletion`` runs ``completion(acompletion=True)`` in a thread, in a copy of the context. Fallbacks and the Router
  run coroutines with ``run_async_function``, in a thread without the context if a loop is running.

So the outer layers report a call, unless litellm makes it as part of another, and the innermost layer reports a try.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from types import FunctionType
from typing import Any, Final

from crewbus_litellm import calls
from crewbus_litellm.code_swap import CodeSwap, Wrapper

_APIS: Final = {
    "completion": calls.COMPLETION,
    "text_completion": calls.TEXT_COMPLETION,
    "embedding": calls.EMBEDDING,
    "responses": calls.RESPONSES,
}
"""The functions that ask a model; each has an async form, whose name begins with an "a"."""
_RETRIED: Final = {"completion_with_retries": calls.COMPLETION}
_ROUTED: Final = {name: _APIS[name] for name in ("completion", "text_completion", "embedding")}
_BATCHES: Final = ("batch_completion", "batch_completion_models", "batch_completion_models_all_responses")


def apply_patches(undo: ExitStack) -> None:
    """Wrap litellm's functions; raises if the installed litellm does not have them."""
    for swap in _code_swaps():
        swap.apply()
        undo.callback(swap.revert)


@cache
def _code_swaps() -> tuple[CodeSwap, ...]:
    return tuple(CodeSwap(function, wrapper) for function, wrapper in _wrapped_functions())


def _wrapped_functions() -> Iterator[tuple[FunctionType, Wrapper]]:
    litellm, main = importlib.import_module("litellm"), importlib.import_module("litellm.main")
    for name, api in _APIS.items():
        yield from _layers_wrapped(getattr(litellm, name), api, calls.reporting, calls.trying)
        yield from _layers_wrapped(getattr(litellm, f"a{name}"), api, calls.reporting_async, calls.trying_async)
    yield from _messages_wrapped(importlib.import_module("litellm.messages"))
    for name, api in _RETRIED.items():
        yield getattr(main, name), calls.reporting(calls.retried_call, api)
        yield getattr(main, f"a{name}"), calls.reporting_async(calls.retried_call, api)
    for name, api in _ROUTED.items():
        yield vars(router_class())[name], calls.reporting(calls.router_call, api)
        yield vars(router_class())[f"a{name}"], calls.reporting_async(calls.router_call, api)
    for name in _BATCHES:
        yield getattr(litellm, name), calls.batching
    yield importlib.import_module("litellm.litellm_core_utils.asyncify").run_async_function, calls.carrying


def _layers_wrapped(
    function: Any, api: calls.Api, reporting: Callable[[calls.Begin, calls.Api], Wrapper], trying: Wrapper
) -> Iterator[tuple[FunctionType, Wrapper]]:
    *dispatcher, decorated, inner = _layers(function)
    for outermost in dispatcher[:1]:
        yield outermost, reporting(calls.dispatched_call, api)
    yield decorated, reporting(calls.direct_call, api)
    yield inner, trying


def _messages_wrapped(module: Any) -> Iterator[tuple[FunctionType, Wrapper]]:
    """``anthropic.messages``: the sync form is not decorated, and is what the async one runs in a thread."""
    yield from _layers_wrapped(module.anthropic_messages, calls.MESSAGES, calls.reporting_async, calls.trying_async)
    for layer in _layers(module.anthropic_messages_handler):
        yield layer, calls.reporting(calls.retried_call, calls.MESSAGES)


def _layers(function: Any) -> list[FunctionType]:
    """The dispatcher, if any, what ``client`` returned, and what it decorates; skips the wrappers of tracers."""
    layers = [function]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    return [layer for layer in layers if isinstance(layer, FunctionType)]


def router_class() -> type:
    """The class whose methods a ``litellm.Router`` runs: the Router itself, its core in 1.109, its Rust core since."""
    router = importlib.import_module("litellm.router")
    found: type
    if find_spec("litellm.router_rust") is not None:
        found = importlib.import_module("litellm.router_rust.core").RustCore
    else:
        found = getattr(router, "PythonCore", router.Router)
    return found
