"""Declare, register and find event types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar, dataclass_transform, overload

import attrs

from crewbus.events.registry import EventType, Registry, Unstructure, Upgrades
from crewbus.exceptions import EventTypeError

C = TypeVar("C", bound=type)

_events: Final = Registry("an event type", "decorate it with @crewbus.event, or call crewbus.register_event({name})")


def register_event(
    cls: C,
    *,
    name: str | None = None,
    version: int = 1,
    structure: Callable[..., Any] | None = None,
    unstructure: Unstructure | None = None,
    subclasses: bool = False,
    upgrades: Upgrades | None = None,
    recognised_by: Iterable[str] | None = None,
) -> C:
    """Register ``cls`` as an event type and return it. For classes that `event` does not declare, at any time.

    ``name`` (by default ``module.qualname``) and ``version`` (from 1) identify the type in a record.
    ``unstructure(instance)`` returns a JSON value, and ``structure(value)`` an equal instance; crewbus does not check
    that they agree. attrs classes and dataclasses need neither. With ``subclasses=True`` all subclasses are event
    types too, including later ones, each under its own module and name; ``structure(value, cls)`` then receives the
    class to build. ``upgrades`` maps each older version to a function that turns its JSON value into that of the next
    version. A class that is defined again under the same module and name replaces the earlier one.
    ``recognised_by`` names the fields of that JSON value by which a resumed run recognises an event that it repeats,
    for events that have an id or a time of their own; by default all of them.

    Raises `EventTypeError` if ``cls`` is not a class, if the name belongs to another class, or if only one of
    ``structure`` and ``unstructure`` is given.
    """
    _events.register(cls, name, version, structure, unstructure, subclasses, upgrades, recognised_by=recognised_by)
    return cls


def forget_event(cls: type) -> None:
    """Undo `register_event`, for a plugin that was rejected."""
    _events.discard(cls)


@overload
@dataclass_transform(field_specifiers=(attrs.field,))
def event(cls: C, /) -> C: ...
@overload
@dataclass_transform(field_specifiers=(attrs.field,))
def event(
    *,
    name: str | None = None,
    version: int = 1,
    frozen: bool = False,
    upgrades: Upgrades | None = None,
    landmark: bool = False,
) -> Callable[[C], C]: ...
@dataclass_transform(field_specifiers=(attrs.field,))
def event(
    cls: C | None = None,
    /,
    *,
    name: str | None = None,
    version: int = 1,
    frozen: bool = False,
    upgrades: Upgrades | None = None,
    landmark: bool = False,
) -> C | Callable[[C], C]:
    """Turn a class into an event type: an attrs class that is registered, so that records of it can be read.

    ``name``, ``version`` and ``upgrades`` are those of `register_event`. ``frozen=True`` makes instances immutable;
    creating them takes longer. A class that attrs has defined already is only registered.
    ``landmark=True`` is for crewbus's own events: a resume reads them, and stores index them.

    >>> @event(name="acme.Greeted")
    ... class Greeted:
    ...     whom: str
    >>> Greeted("world")
    Greeted(whom='world')
    """

    def declare(plain: C) -> C:
        if not isinstance(plain, type):
            raise EventTypeError(f"@event decorates a class; got {plain!r}")
        ready = "__attrs_attrs__" in plain.__dict__
        defined = plain if ready else attrs.define(plain, frozen=frozen)
        _events.register(defined, name, version, None, None, False, upgrades, landmark)
        return defined

    return declare if cls is None else declare(cls)


def event_type_of(cls: type) -> EventType:
    """Return the registration of ``cls``; raises `UnregisteredEventError` if there is none."""
    return _events.of(cls)


def event_type_or_none(cls: type) -> EventType | None:
    """Return the registration of ``cls``, or None."""
    return _events.find_class(cls)


def find_event_type(name: str) -> EventType | None:
    """Return the event type registered under ``name``, or None. Nothing is imported to find it."""
    return _events.find(name)


def event_types() -> Iterator[EventType]:
    """Iterate over all registered event types, in order of registration."""
    yield from _events
