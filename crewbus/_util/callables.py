"""Callables: their kind, name and identity."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from types import BuiltinMethodType, MethodType
from typing import Any

from crewbus.exceptions import TargetError


def is_kind(function: Callable[..., Any], check: Callable[[Any], bool]) -> bool:
    """Whether ``check``, one of `inspect`'s, holds for ``function``, or for the ``__call__`` of an object."""
    return check(function) or check(getattr(type(function), "__call__", None))  # noqa: B004 - looks at its kind


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` returns a coroutine: an ``async def``, or an object whose ``__call__`` is one."""
    return is_kind(function, inspect.iscoroutinefunction)


def name_of(function: Callable[..., Any]) -> str:
    """The module and qualified name of a function; of an object's class where it has none."""
    plain = function.func if isinstance(function, functools.partial) else function
    try:
        return f"{plain.__module__}.{plain.__qualname__}"
    except Exception:  # an object without these attributes, or whose attributes raise
        return f"{type(plain).__module__}.{type(plain).__qualname__}"


def module_name(name: str) -> str:
    """The name of a module: of the one that is executed, the name under which it would be imported.

    So what a script defines has the same name in ``python agent.py`` and where ``agent`` is imported.
    """
    if name not in ("__main__", "__mp_main__"):  # the second is the first, in a child of multiprocessing
        return name
    module = sys.modules.get(name)
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return (inspect.getmodulename(file) if file else None) or name


def awaitable_in(result: Any, name: str) -> Awaitable[Any] | None:
    """``result``, which the function ``name`` returned, if it must be awaited; else None.

    Raises `TargetError` for a generator: nothing would iterate over it, so none of its code would run.
    """
    if inspect.isawaitable(result):
        return result
    refuse_generator(result, name)
    return None


def refuse_generator(result: Any, name: str) -> None:
    """Raise `TargetError` if ``result``, which the function ``name`` returned, is a generator."""
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TargetError(
            f"{name} returned a generator, which runs only when something iterates over it: "
            "iterate over it inside the function, and return what it makes"
        )


def identity_of(function: Any) -> object:
    """A key that is equal for the same callable only, while it lives."""
    # `==` may be overridden, and each access creates a new bound method.
    if isinstance(function, MethodType):
        return id(function.__self__), id(function.__func__)
    if isinstance(function, BuiltinMethodType):
        return id(function.__self__), function.__qualname__
    return id(function)


def is_same(one: Any, other: Any) -> bool:
    """Whether two callables are identical."""
    return identity_of(one) == identity_of(other)


def is_text(value: object) -> bool:
    """Whether ``value`` is a string, and not empty."""
    return isinstance(value, str) and value != ""
