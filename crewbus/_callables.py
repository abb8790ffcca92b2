"""Functions as they are handed in: of which kind, and by which name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
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
