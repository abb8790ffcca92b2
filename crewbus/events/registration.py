"""Event types: declaring and registering them, and finding them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
) -> C:
    """Register ``cls`` as an event type, at any time, and return it.

    For classes that are not declared with `event`: pydantic models, dataclasses, plain classes.
    ``name`` (default ``module.qualname``) and ``version`` identify the type in a record;
    ``unstructure(instance)`` gives what JSON can hold, ``structure(that)`` gives an instance back; whether it is
    the same is then their affair. Both may be left out for attrs classes and dataclasses. With ``subclasses`` all
    subclasses are event types too, also those defined later, each under its own module and name; ``structure(that,
    cls)`` is then told which one. ``upgrades`` says how older records are read: by version, what makes of that
    version's JSON the next one's. A class defined again under its own module and name (a reloaded module, a
    factory) takes the name over.

    Raises `EventTypeError` when ``cls`` is not a class, or the name belongs to another class.
    """
    _events.register(cls, name, version, structure, unstructure, subclasses, upgrades)
    return cls


def forget_event(cls: type) -> None:
    """Undo `register_event`: of a plugin that was refused."""
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
    """Make a class an event: an attrs class, registered for decoding.

    ``name``, ``version`` and ``upgrades`` are as for `register_event`; ``frozen=True`` makes instances immutable,
    at the price of a slower constructor. A class that attrs has already defined is registered as it is.
    ``landmark=True`` is for crewbus's own events: a resume reads them, and stores index them.

    >>> @event(name="acme.Greeted")
    ... class Greeted:
    ...     whom: str
    >>> Greeted("world")
    Greeted(whom='world')
    """

    def declare(plain: C) -> C:
        if not isinstance(plain, type):
            raise EventTypeError(f"@event goes on a class; got {plain!r}")
        ready = "__attrs_attrs__" in plain.__dict__
        defined = plain if ready else attrs.define(plain, frozen=frozen)
        _events.register(defined, name, version, None, None, False, upgrades, landmark)
        return defined

    return declare if cls is None else declare(cls)


def event_type_of(cls: type) -> EventType:
    """The registration of ``cls``; raises `UnregisteredEventError` where there is none."""
    return _events.of(cls)


def event_type_or_none(cls: type) -> EventType | None:
    """The registration of ``cls``, or None."""
    return _events.find_class(cls)


def find_event_type(name: str) -> EventType | None:
    """The event type registered under ``name``, or None. Nothing is ever imported to find it."""
    return _events.find(name)


def event_types() -> Iterator[EventType]:
    """All registered event types, in order of registration."""
    yield from _events
