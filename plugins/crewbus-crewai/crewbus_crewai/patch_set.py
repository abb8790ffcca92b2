"""Patch sets: functions and values of other modules and classes are replaced, and restored together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary, ref

import wrapt

from crewbus import reentrant_lock

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""As for wrapt: called with the wrapped function, the instance or class it is bound to, and the call's arguments."""

MISSING: Final = object()


class _Wrapped(NamedTuple):
    wrapper: ref[Any]
    inherited: bool
    """Whether the owner, a class, inherited the function, so that removing the attribute restores it."""


class PatchSet:
    """Replaces functions by `wrapt.FunctionWrapper` and values by others, until `restore`. Keeps no class alive."""

    def __init__(self) -> None:
        self._lock = reentrant_lock()
        self._active = True
        # A wrapped function refers to its class, so only weak references keep a class collectable.
        self._wrapped: WeakKeyDictionary[Any, dict[str, _Wrapped]] = WeakKeyDictionary()
        self._values = ExitStack()

    def wrap(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        """Wrap a function of ``owner``, a class or module. No effect after `restore`, which may run concurrently."""
        with self._lock:
            if not self._active:
                return
            inherited = name not in vars(owner)
            options = {"enabled": self._is_active}
            placed = wrapt.wrap_object(owner, name, wrapt.FunctionWrapper, (wrapper,), options)
            self._wrapped.setdefault(owner, {})[name] = _Wrapped(ref(placed), inherited)

    def _is_active(self) -> bool:
        return self._active

    def set(self, module: Any, name: str, value: Any) -> None:
        """Give an attribute of a module another value."""
        self._values.callback(_restore_value, module, name, value, getattr(module, name))
        setattr(module, name, value)

    def restore(self) -> None:
        """Restore everything, except attributes that others have replaced since; there our wrapper does nothing."""
        with self._lock:
            self._active = False
            for owner, functions in list(self._wrapped.items()):
                for name, wrapped in functions.items():
                    _restore_function(owner, name, wrapped)
            self._values.close()


def _restore_function(owner: Any, name: str, wrapped: _Wrapped) -> None:
    wrapper = wrapped.wrapper()
    if wrapper is None or vars(owner).get(name) is not wrapper:
        return
    if wrapped.inherited:
        delattr(owner, name)
    else:
        setattr(owner, name, wrapper.__wrapped__)


def _restore_value(module: Any, name: str, value: Any, original: Any) -> None:
    if getattr(module, name, MISSING) is value:
        setattr(module, name, original)


def bound_to(wrapped: Callable[..., Any], instance: Any) -> Callable[..., Any]:
    """``wrapped``, a bound method, bound to another instance; as it is if another wrapper hides its function."""
    function = getattr(wrapped, "__func__", None)
    return wrapped if function is None else partial(function, instance)
