"""Workflows: functions under chosen names, so that queued runs outlive the modules that define them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import cached_property, update_wrapper
from typing import Any, Final, Generic, ParamSpec, TypeVar, get_type_hints

from crewbus import InputError, TargetError
from crewbus_workers.carrying import Variables, checked_variables
from crewbus_workers.checks import is_count, is_text

__all__ = ["Workflow", "find_workflow", "newest_version", "registered", "workflow"]

P = ParamSpec("P")
T = TypeVar("T")

_SEPARATOR: Final = "@"


class Workflow(Generic[P, T]):
    """A function registered under a name and a version. Calling it calls the function, in the current run."""

    def __init__(self, name: str, version: int, function: Callable[P, T], carry: Variables = ()) -> None:
        self.name: Final = name
        self.version: Final = version
        self.function: Final = function
        self.carry: Final = carry
        """The ContextVars whose values travel with its runs."""
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Workflow {self.label}>"

    @property
    def label(self) -> str:
        """Name and version, as in ``newsroom@2``: what a queued run says that it needs."""
        return label_of(self.name, self.version)

    def annotations(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The annotations of the parameters that take these arguments; raises `InputError` if they take them not."""
        if self._signature is None:
            return [Any] * len(args), dict.fromkeys(kwargs, Any)
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"{self.label}{self._signature}: {error}") from None
        parameters = list(self._signature.parameters.values())
        positional = [self._annotation(parameters, place) for place in range(len(args))]
        named = {name: self._hints.get(name, self._any_keyword(parameters)) for name in kwargs}
        return positional, named

    def _annotation(self, parameters: list[inspect.Parameter], place: int) -> Any:
        for parameter in parameters[: place + 1]:
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                return self._hints.get(parameter.name, Any)
        return self._hints.get(parameters[place].name, Any)

    def _any_keyword(self, parameters: list[inspect.Parameter]) -> Any:
        last = parameters[-1] if parameters else None
        is_open = last is not None and last.kind is inspect.Parameter.VAR_KEYWORD
        return self._hints.get(last.name, Any) if last is not None and is_open else Any

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.function)
        except (TypeError, ValueError):  # some built-ins have none
            return None

    @cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(self.function)
        except Exception:  # names that do not exist at run time
            return {}


_workflows: Final[dict[str, Workflow[..., Any]]] = {}
"""By label. A module that defines a workflow is imported once, so this only grows."""


def label_of(name: str, version: int) -> str:
    """``name@version``."""
    return f"{name}{_SEPARATOR}{version}"


def workflow(
    name: str, version: int = 1, *, carry: Iterable[ContextVar[Any]] = ()
) -> Callable[[Callable[P, T]], Workflow[P, T]]:
    """Register a function as the workflow ``name``, in this version: queued runs of it can be executed here.

    A run keeps the version that it was queued with. So keep the old version registered, under its number, until its
    runs have ended; or keep the number, and ask `crewbus.Run.patched` where the code has changed.

    ``carry``: ContextVars, such as the tenant's. `enqueue` records the values that they have then, and each worker that
    executes the run sets them before it calls the function, also when it continues the run. The values are plain JSON,
    8 kB of it at most; a variable that is not set is not carried.

    Raises `InputError` for a name, a version or variables that can't be one, or a name that is taken by another
    function, and `TargetError` for what can't be called or is a generator function.
    """
    if not is_text(name) or _SEPARATOR in name:
        raise InputError(f"a workflow's name is a text without {_SEPARATOR!r}; got {name!r}")
    if not is_count(version):
        raise InputError(f"workflow {name!r}: a version is a whole number from 1; got {version!r}")
    variables = checked_variables(carry, f"workflow {name!r}")

    def register(function: Callable[P, T]) -> Workflow[P, T]:
        if not callable(function):
            raise TargetError(f"workflow {name!r} takes a function; {function!r} can't be called")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TargetError(f"workflow {name!r} is a generator function: call crewbus.chunk(text) where it yields")
        made = Workflow(name, version, function, variables)
        before = _workflows.get(made.label)
        if before is not None and not _is_same_function(before.function, function):
            raise InputError(
                f"the workflow {made.label} is {_origin(before.function)} already: give {_origin(function)} another "
                "name or version"
            )
        _workflows[made.label] = made
        return made

    return register


def _is_same_function(one: Any, other: Any) -> bool:
    """Whether a module that is imported anew, as by a reloader, defines the same function again."""
    return one is other or _origin(one) == _origin(other)


def _origin(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


def find_workflow(label: str) -> Workflow[..., Any] | None:
    """The workflow that is registered here under this name and version, or None; the newest for a name alone."""
    return _workflows.get(label) if _SEPARATOR in label else newest_version(label)


def newest_version(name: str) -> Workflow[..., Any] | None:
    """The workflow of this name with the greatest version that is registered here, or None."""
    found = [one for one in registered() if one.name == name]
    return max(found, key=lambda one: one.version, default=None)


def registered() -> Iterable[Workflow[..., Any]]:
    """All workflows that are registered here."""
    return list(_workflows.values())
