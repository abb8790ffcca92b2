"""Entities: what a checkpoint keeps the state of. Their types are registered, as those of events are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from crewbus.events.registration import event_type_or_none, find_event_type
from crewbus.events.registry import EventType, Registry, Unstructure, Upgrades

C = TypeVar("C", bound=type)

entities: Final = Registry("an entity type", "call crewbus.register_entity({name})")


def register_entity(
    cls: C,
    *,
    name: str | None = None,
    version: int = 1,
    structure: Callable[..., Any] | None = None,
    unstructure: Unstructure | None = None,
    subclasses: bool = False,
    upgrades: Upgrades | None = None,
) -> C:
    """Register ``cls`` as a type of entities, and return it: crews, agents, whatever has a state worth a checkpoint.

    In a recorded run an instance that is the ``source`` of an event is tracked from then on, others by `Run.track`.
    Step results may be instances too. The arguments are as for `register_event`; so are the errors.
    """
    entities.register(cls, name, version, structure, unstructure, subclasses, upgrades)
    return cls


def type_of_value(cls: type) -> EventType | None:
    """As what instances of ``cls`` are written: an entity type, or else an event type; None where it is neither."""
    return entities.find_class(cls) or event_type_or_none(cls)


def find_type(name: str) -> EventType | None:
    """The entity type registered under ``name``, or else the event type; None where there is neither."""
    return entities.find(name) or find_event_type(name)
