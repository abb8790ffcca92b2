"""Exceptions that a resumed run raises again as themselves. Their types are registered like those of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from crewbus.events.registry import Registry, Unstructure, Upgrades
from crewbus.exceptions import EventTypeError

E = TypeVar("E", bound=type[Exception])

exception_types: Final = Registry("an exception type", "call crewbus.register_exception({name})")


def register_exception(
    cls: E,
    *,
    name: str | None = None,
    version: int = 1,
    structure: Callable[..., Any] | None = None,
    unstructure: Unstructure | None = None,
    subclasses: bool = False,
    upgrades: Upgrades | None = None,
) -> E:
    """Register ``cls`` as an exception type and return it: a step's failure with it comes back as itself.

    A resumed run raises a failure that the code handled again, so that the same ``except`` clause catches it. The
    exceptions of Python and of crewbus need no registration; others come back as `StepFailedError`. By default the
    exception's ``args`` and attributes are recorded: numbers, texts, bytes, lists, tuples, sets, dicts and such
    exceptions. ``__init__`` is not called again. The arguments and errors are those of `register_event`.
    """
    given: Any = cls
    if isinstance(given, type) and not issubclass(given, Exception):
        raise EventTypeError(f"an exception type is a subclass of Exception; got {cls!r}")
    exception_types.register(cls, name, version, structure, unstructure, subclasses, upgrades)
    return cls
