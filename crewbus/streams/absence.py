"""Consumers that are long in coming: a web framework drops a generator in a reference cycle.

Only its collection ends the run, and an emitter that waits may be all that is left to cause one.
"""

from __future__ import annotations

import gc
from math import inf
from time import monotonic
from typing import Final, Protocol

from crewbus.scopes import threads

MANY: Final = 64
"""Frames after which an emitter looks whether the consumer is long in coming."""
_LONG: Final = 1.0  # seconds


class Consumed(Protocol):
    """What a consumer takes frames from."""

    @property
    def wake(self) -> object:
        """What wakes the consumer while it waits; None: it does not wait."""

    @property
    def waker(self) -> object:
        """What wakes its event loop, if it has one."""

    @property
    def looked(self) -> float | None:
        """What the last look returned since the consumer came; None: no emitter looked."""


def look(consumed: Consumed) -> float | None:
    """Collect garbage, once no lock is held, if a ``for`` loop is long in coming; returns when it was first missed."""
    first = consumed.looked
    if consumed.wake is not None or consumed.waker is not None:
        return first
    if first is None:
        return monotonic()
    if monotonic() - first <= _LONG:
        return first
    threads.state.defer(gc.collect)
    return inf
