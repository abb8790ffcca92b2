"""Code swaps: a wrapper runs in place of a function, for every reference to that function.

wrapt and other monkey patching replace an attribute, and so miss the references that were taken before: ``from litellm
import completion`` in the application, ``functools.partial(completion, ...)``, the functions that litellm's dispatcher
keeps, and the one that litellm's decorator ``client`` closes over. A code swap leaves the function object in place and
replaces its code, so every reference reaches the wrapper, and other tools may wrap or replace the attribute as well.
Reverting restores the original code object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import count
from types import CodeType, FunctionType
from typing import Any, Final

Wrapper = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Any]
"""Called with the original function and the arguments of the call; returns what the call returns."""

targets: Final[dict[str, Callable[..., Any]]] = {}
"""What each swapped code calls, by the swap's key. After a swap is reverted, its key leads to the original function."""

_keys = count()


# `swapped` provides the code. It runs with the globals of the patched function, so it imports what it needs, and it
# must close over the same variables, so it names them.
_SOURCE = """
def enclose({variables}):
    {prefix}def swapped(*args, **kwargs):
        from crewbus_litellm.code_swap import targets
        return {wait}targets[{key!r}](*args, **kwargs)
        ({variables})
    return swapped
"""


class CodeSwap:
    """While applied, each call of ``function`` becomes ``wrapper(original, args, kwargs)``."""

    def __init__(self, function: FunctionType, wrapper: Wrapper) -> None:
        self._function = function
        self._wrapper = wrapper
        self._prepare()

    def _prepare(self) -> None:
        self._key = f"{self._function.__module__}.{self._function.__qualname__} {next(_keys)}"
        self._swapped_code = _swapped_code(self._function, self._key)

    def apply(self) -> None:
        """Swap the code, unless it is swapped already."""
        function, wrapper = self._function, self._wrapper
        if function.__code__ is self._swapped_code:
            return
        self._original_code = function.__code__
        self._original = original = _copy(function)
        targets[self._key] = lambda *args, **kwargs: wrapper(original, args, kwargs)
        function.__code__ = self._swapped_code

    def revert(self) -> None:
        """Restore the original code. If another swap was applied on top of this one, only disable the wrapper."""
        targets[self._key] = self._original
        if self._function.__code__ is self._swapped_code:
            self._function.__code__ = self._original_code
        else:
            self._prepare()  # the other swap still calls the old key


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    return copy


def _swapped_code(function: FunctionType, key: str) -> CodeType:
    """Code that ``function`` accepts: asynchronous if it is, and with the same closure variables."""
    code, is_async = function.__code__, inspect.iscoroutinefunction(function)
    source = _SOURCE.format(
        variables=", ".join(code.co_freevars),
        prefix="async " if is_async else "",
        wait="await " if is_async else "",
        key=key,
    )
    namespace: dict[str, Any] = {}
    exec(compile(source, "<code swapped by crewbus-litellm>", "exec"), namespace)
    swapped: FunctionType = namespace["enclose"](*code.co_freevars)
    return swapped.__code__.replace(co_name=code.co_name, co_qualname=code.co_qualname)
