"""Steps that no record gets, because their thread was started without the context of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from crewbus.dispatch import OrderedLane


class Recorded(Protocol):
    """What durability keeps about a recorded tree."""

    lane: OrderedLane


live: Final[WeakValueDictionary[int, Recorded]] = WeakValueDictionary()
"""Those of the trees that are recorded at the moment, of all buses, by their id()."""


def warn_of_step(name: str) -> None:
    """Warn of a step that is called outside any run while a run is recorded, or raise `UnscopedError`.

    Its thread most probably belongs to that run. Does nothing if no run is recorded.
    """
    for reference in live.valuerefs():
        recorded = reference()
        if recorded is not None:
            recorded.lane.unscoped.warn_of_step(name)
            return
