"""Callables: their kind, name and identity."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import BuiltinMethodType, MethodType
from typing import Any


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` returns a coroutine: an ``async def``, or an object whose ``__call__`` is one."""
    called = getattr(type(function), "__call__", None)  # noqa: B004 - looks at its kind
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def name_of(function: Callable[..., Any]) -> str:
    """The module and qualified name of a function; of an object's class where it has none."""
    plain = function.func if isinstance(function, functools.partial) else function
    try:
        return f"{plain.__module__}.{plain.__qualname__}"
    except Exception:  # an object without these attributes, or whose attributes raise
        return f"{type(plain).__module__}.{type(plain).__qualname__}"


def is_same(one: Any, other: Any) -> bool:
    """Whether two callables are identical."""
    # `==` may be overridden, and each access creates a new bound method.
    if isinstance(one, MethodType) and isinstance(other, MethodType):
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    if isinstance(one, BuiltinMethodType) and isinstance(other, BuiltinMethodType):
        return one == other  # compares the bound objects by identity
    return one is other


def is_text(value: object) -> bool:
    """Whether ``value`` is a string, and not empty."""
    return isinstance(value, str) and value != ""
