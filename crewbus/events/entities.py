"""Entities: objects whose state checkpoints save. Their types are registered like those of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from crewbus.events.registration import event_type_or_none, find_event_type
from crewbus.events.registry import EventType, Registry, Unstructure, Upgrades

C = TypeVar("C", bound=type)

entity_types: Final = Registry("an entity type", "call crewbus.register_entity({name})")


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
    """Register ``cls`` as an entity type and return it: a crew, an agent, or another class with state to save.

    In a recorded run an instance is tracked once it is the ``source`` of an event or is given to `Run.track`.
    Steps may return instances too. The arguments and errors are those of `register_event`.
    """
    entity_types.register(cls, name, version, structure, unstructure, subclasses, upgrades)
    return cls


def type_of_value(cls: type) -> EventType | None:
    """Return how instances of ``cls`` are encoded: as an entity type, else as an event type; None if it is neither."""
    return entity_types.find_class(cls) or event_type_or_none(cls)


def find_type(name: str) -> EventType | None:
    """Return the entity type registered under ``name``, else the event type; None if there is neither."""
    return entity_types.find(name) or find_event_type(name)
