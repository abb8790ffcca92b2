"""Asking: which buses have the nodes and tasks of their graphs as steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from weakref import WeakKeyDictionary

from crewbus import Bus

Durable = bool | Iterable[type]
"""Whether nodes and tasks are steps; the types of an application's own that they may write mean yes."""

_asked: Final[WeakKeyDictionary[Bus, tuple[type, ...]]] = WeakKeyDictionary()


def ask(bus: Bus, durable: Durable) -> None:
    """Have the nodes and tasks that are reported to ``bus`` as steps, or not."""
    if isinstance(durable, bool):
        if durable:
            _asked[bus] = ()
        else:
            _asked.pop(bus, None)
    else:
        _asked[bus] = tuple(durable)


def durable_types(bus: Bus) -> tuple[type, ...] | None:
    """The types of the application's own that nodes may write; None: they are not steps."""
    return _asked.get(bus)
