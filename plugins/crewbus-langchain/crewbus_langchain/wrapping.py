"""Wrapping: functions of the libraries are wrapped, and restored; and the wrapper that both have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import wrapt

from crewbus_langchain.integration import contained
from crewbus_langchain.open_scopes import open_scopes


def wrap(undo: ExitStack, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Wrap a function of ``owner`` until ``undo`` is unwound; others may have wrapped it since."""
    active = [True]
    original = vars(owner)[name]
    wrapt.wrap_object(owner, name, wrapt.FunctionWrapper, (wrapper,), {"enabled": lambda: active[0]})
    placed = vars(owner)[name]

    def restore() -> None:
        active[0] = False
        if vars(owner)[name] is placed:
            setattr(owner, name, original)

    undo.callback(restore)


def bound_to(wrapped: Callable[..., Any], instance: Any) -> Callable[..., Any]:
    """``wrapped``, a bound method, bound to another instance; as it is if another wrapper hides its function."""
    function = getattr(wrapped, "__func__", None)
    return wrapped if function is None else partial(function, instance)


def entering(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Make the scope of a run current in the context in which langchain calls its code."""
    with contained("entering the scope of a run"):
        around = open_scopes.of(args[0] if args else kwargs["config"])
        if around is not None:
            around.enter_forever()
    return wrapped(*args, **kwargs)
