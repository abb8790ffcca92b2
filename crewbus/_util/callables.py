"""What is handed in: functions, of which kind and by which name; text."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import BuiltinMethodType, MethodType
from typing import Any


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` gives a coroutine: an ``async def``, or an object whose ``__call__`` is one."""
    called = getattr(type(function), "__call__", None)  # noqa: B004 - its kind matters, not that it is there
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def name_of(function: Callable[..., Any]) -> str:
    """Module and qualified name of a function, for whoever must find it."""
    plain = function.func if isinstance(function, functools.partial) else function
    try:
        return f"{plain.__module__}.{plain.__qualname__}"
    except Exception:  # an object, or one that does not like to be asked
        return f"{type(plain).__module__}.{type(plain).__qualname__}"


def is_same(one: Any, other: Any) -> bool:
    """Whether two callables are one and the same."""
    # Not by ==, which a handler may define as it likes; bound methods are made anew at each access.
    if isinstance(one, MethodType) and isinstance(other, MethodType):
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    if isinstance(one, BuiltinMethodType) and isinstance(other, BuiltinMethodType):
        return one == other  # which compares what they are bound to by identity
    return one is other


def is_text(value: object) -> bool:
    """Whether ``value`` is a string that says something."""
    return isinstance(value, str) and value != ""
