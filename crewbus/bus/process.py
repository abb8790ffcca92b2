"""The process's events that concern every open bus: its fork and its exit."""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from typing import Final, Protocol

from crewbus._util import generation
from crewbus.bus.lifecycle import Lifecycle
from crewbus.exceptions import GraceWarning, text_of
from crewbus.scopes import forget_thread, forget_waits
from crewbus.stores import store_refs
from crewbus.streams import forget_wakers


class OpenBus(Protocol):
    """What is asked of a bus when the process forks or ends."""

    @property
    def lifecycle(self) -> Lifecycle:
        """What closes it, and begins again after a fork."""

    def close(self) -> None:
        """Close it, losing nothing."""


live_buses: Final[weakref.WeakSet[OpenBus]] = weakref.WeakSet()
"""The buses that are not closed."""


def _close_all() -> None:
    for bus in list(live_buses):
        try:
            bus.close()
        except Exception as error:
            warnings.warn(f"closing {bus!r} at exit: {text_of(error)}", GraceWarning, stacklevel=1)


def _after_fork() -> None:
    generation.advance()
    forget_thread()
    forget_waits()
    store_refs.after_fork()
    forget_wakers()
    for bus in list(live_buses):
        bus.lifecycle.after_fork()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
