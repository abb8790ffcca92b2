"""Patches: functions and methods of others, led through ours, and put back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

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
        stock = self._before if self._before is not MISSING else getattr(owner, name)
        kind = type(stock) if isinstance(stock, staticmethod | classmethod) else None
        self._ours = self._around(stock.__func__ if kind else stock)
        self._placed = kind(self._ours) if kind else self._ours
        setattr(owner, name, self._placed)

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
        if getattr(self._owner, self._name) is self._value:
            setattr(self._owner, self._name, self._before)


class Patches:
    """All that is changed, put back in the order opposite to that in which it was."""

    def __init__(self) -> None:
        self._made: list[Patch | Value] = []

    def lead(self, owner: Any, name: str, lead: Lead) -> None:
        """Have ``lead(stock, ...)`` called in the stead of a function of ``owner``, a class or module."""
        self._made.append(Patch(owner, name, lead))

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Give an attribute of a module another value."""
        self._made.append(Value(owner, name, value))

    def remove(self) -> None:
        """Put everything back."""
        while self._made:
            self._made.pop().remove()


def _pass(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return stock(*args, **kwargs)
