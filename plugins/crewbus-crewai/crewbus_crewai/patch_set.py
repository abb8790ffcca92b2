"""Patches: functions and methods of others, led through ours, and put back."""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakValueDictionary

Lead = Callable[..., Any]
"""Gets the function as it was, and what it is called with; does as the function does. Async where that is."""

MISSING: Final = object()


class Patch:
    """One attribute of a class or module that is changed: a function, by which ``lead`` is called in its stead."""

    def __init__(self, owner: Any, name: str, lead: Lead) -> None:
        self._owner = owner
        self._name = name
        self._lead: Lead = lead
        self._before = vars(owner).get(name, MISSING)  # a class may inherit it
        self._placed = self._made()
        setattr(owner, name, self._placed)

    def _made(self) -> Any:
        if isinstance(self._before, classmethod):
            return classmethod(self._around(self._before.__func__))
        # StepCall of the class, what others have put there learns whose it is, as wrappers made with wrapt must.
        around = self._around(getattr(self._owner, self._name))
        return staticmethod(around) if isinstance(self._before, staticmethod) else around

    def _around(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def led(*args: Any, **kwargs: Any) -> Any:
            return self._lead(stock, *args, **kwargs)

        async def led_async(*args: Any, **kwargs: Any) -> Any:
            return await self._lead(stock, *args, **kwargs)

        return functools.wraps(stock)(led_async if inspect.iscoroutinefunction(stock) else led)

    def remove(self) -> None:
        """Put back what was there, unless somebody has changed it since; then do nothing more than it did."""
        self._lead = _pass
        if vars(self._owner).get(self._name) is not self._placed:
            return
        if self._before is MISSING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


class Value:
    """One attribute of a module that is given another value."""

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self._owner = owner
        self._name = name
        self._value = value
        self._before = getattr(owner, name)
        setattr(owner, name, value)

    def remove(self) -> None:
        """Put back what was there, unless somebody has changed it since."""
        if getattr(self._owner, self._name, MISSING) is self._value:
            setattr(self._owner, self._name, self._before)


class Patches:
    """All that is changed, put back in the order opposite to that in which it was."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        # What is placed in a class holds its patch, and goes with the class.
        self._patches: WeakValueDictionary[int, Patch] = WeakValueDictionary()
        self._values: list[Value] = []
        self._removed = False

    def lead(self, owner: Any, name: str, lead: Lead) -> None:
        """Have ``lead(stock, ...)`` called in the stead of a function of ``owner``, a class or module.

        When everything has been put back, which another thread may do meanwhile, it stays as it is.
        """
        with self._lock:
            if not self._removed:
                self._patches[next(self._numbers)] = Patch(owner, name, lead)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Give an attribute of a module another value."""
        self._values.append(Value(owner, name, value))

    def remove(self) -> None:
        """Put everything back."""
        with self._lock:
            self._removed = True
            for _, patch in sorted(self._patches.items(), reverse=True):
                patch.remove()
            for value in reversed(self._values):
                value.remove()


def _pass(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return stock(*args, **kwargs)
