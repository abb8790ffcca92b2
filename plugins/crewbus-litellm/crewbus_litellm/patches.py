"""Patches: which functions of litellm are wrapped.

The layers of a call in litellm 1.106 to 1.109, from the outside in:

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
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from types import FunctionType
from typing import Any

from crewbus_litellm import calls
from crewbus_litellm.code_swap import CodeSwap, Wrapper


def apply_patches(undo: ExitStack) -> None:
    """Wrap litellm's functions; raises if the installed litellm does not have them."""
    for swap in _code_swaps():
        swap.apply()
        undo.callback(swap.revert)


@cache
def _code_swaps() -> tuple[CodeSwap, ...]:
    return tuple(CodeSwap(function, wrapper) for function, wrapper in _wrapped_functions())


def _wrapped_functions() -> Iterator[tuple[FunctionType, Wrapper]]:
    litellm = importlib.import_module("litellm")
    main = importlib.import_module("litellm.main")
    router = router_class()
    dispatcher, decorated, inner = _layers(litellm.completion)
    yield dispatcher, calls.reporting(calls.dispatched_call)
    yield decorated, calls.reporting(calls.direct_call)
    yield inner, calls.trying
    dispatcher, decorated, inner = _layers(litellm.acompletion)
    yield dispatcher, calls.reporting_async(calls.dispatched_call)
    yield decorated, calls.reporting_async(calls.direct_call)
    yield inner, calls.trying_async
    yield main.completion_with_retries, calls.reporting(calls.retried_call)
    yield main.acompletion_with_retries, calls.reporting_async(calls.retried_call)
    yield vars(router)["completion"], calls.reporting(calls.router_call)
    yield vars(router)["acompletion"], calls.reporting_async(calls.router_call)
    yield importlib.import_module("litellm.litellm_core_utils.asyncify").run_async_function, calls.carrying


def _layers(function: Any) -> tuple[FunctionType, FunctionType, FunctionType]:
    """The dispatcher, what ``client`` returned, and the function it decorates; skips the wrappers of tracers."""
    layers = [function]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    dispatcher, *_, decorated, inner = (layer for layer in layers if isinstance(layer, FunctionType))
    return dispatcher, decorated, inner


def router_class() -> type:
    """The class whose methods a ``litellm.Router`` runs: the Router itself, or its core since 1.109."""
    module = importlib.import_module("litellm.router")
    found: type = getattr(module, "PythonCore", module.Router)
    return found
