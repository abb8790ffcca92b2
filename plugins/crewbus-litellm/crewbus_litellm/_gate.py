"""Gates: every call of a function that somebody else defined is led through a function of ours.

Replacing the function where it is defined would miss who imported it before, and litellm itself holds on to
``completion`` in several modules. So a gate leaves the function object where and what it is and exchanges its
code: whoever has the function, however they came by it, goes through the gate, and other tools that wrap or
replace the function are not in the way. Taking the gate away puts the very same code object back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import count
from types import CodeType, FunctionType
from typing import Any, Final

Lead = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Any]
"""Gets the function as it was, and what it is called with; does as the function does."""

leads: Final[dict[str, Callable[..., Any]]] = {}
"""What each gate leads to, by its key. The keys of gates that are gone lead to the function as it was."""

_keys = count()


# The code of `gate` takes the place of the function's own. It runs with that function's globals, so it has to
# import what it needs; and it has to close over as many variables as the function does, for which it names them.
_SOURCE = """
def enclose({variables}):
    {prefix}def gate(*args, **kwargs):
        from crewbus_litellm._gate import leads
        return {wait}leads[{key!r}](*args, **kwargs)
        ({variables})
    return gate
"""


class Gate:
    """A gate before ``function``: while it is placed, ``lead(stock, args, kwargs)`` is called in its stead."""

    def __init__(self, function: FunctionType, lead: Lead) -> None:
        self._function = function
        self._lead = lead
        self._make()

    def _make(self) -> None:
        self._key = f"{self._function.__module__}.{self._function.__qualname__} {next(_keys)}"
        self._passing = _code(self._function, self._key)

    def place(self) -> None:
        """Place the gate, if it is not."""
        function, lead = self._function, self._lead
        if function.__code__ is self._passing:
            return
        self._code = function.__code__
        self._stock = stock = _twin(function)
        leads[self._key] = lambda *args, **kwargs: lead(stock, args, kwargs)
        function.__code__ = self._passing

    def remove(self) -> None:
        """Put the function's code back, unless somebody has put a gate of theirs before this one; then let all pass."""
        leads[self._key] = self._stock
        if self._function.__code__ is self._passing:
            self._function.__code__ = self._code
        else:
            self._make()  # the code of the other gate leads here by the old key


def _twin(function: FunctionType) -> FunctionType:
    """A function that does what ``function`` does now."""
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__qualname__ = function.__qualname__
    return twin


def _code(function: FunctionType, key: str) -> CodeType:
    """The code of a gate, fit to be ``function``'s: as asynchronous, and closing over variables of the same names."""
    code, waits = function.__code__, inspect.iscoroutinefunction(function)
    source = _SOURCE.format(
        variables=", ".join(code.co_freevars),
        prefix="async " if waits else "",
        wait="await " if waits else "",
        key=key,
    )
    namespace: dict[str, Any] = {}
    exec(compile(source, "<gate of crewbus-litellm>", "exec"), namespace)
    gate: FunctionType = namespace["enclose"](*code.co_freevars)
    return gate.__code__.replace(co_name=code.co_name, co_qualname=code.co_qualname)
