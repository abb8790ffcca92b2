"""The process's events that concern every open bus: its fork and its exit."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
import weakref
from functools import partial
from typing import Final, Protocol

from crewbus._util import call_all, generation
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


class Exit:
    """Whether the process is ending, so that nothing would close another bus."""

    begun = False

    def close_all(self) -> None:
        """Close all buses, for the end of the process."""
        self.begun = True
        call_all([partial(_close_at_exit, bus) for bus in list(live_buses)])


def _close_at_exit(bus: OpenBus) -> None:
    try:
        bus.close()
    except Exception as error:
        warnings.warn(f"closing {bus!r} at exit: {text_of(error)}", GraceWarning, stacklevel=1)


process_exit: Final = Exit()


def _close_with_multiprocessing() -> None:
    """Have the end of a child of multiprocessing close its buses: it skips `atexit`.

    A child forgets the finalizers that it inherits, and then calls what was registered for after the fork.
    """
    util = sys.modules.get("multiprocessing.util")
    if util is not None:

        def register(_: object) -> None:
            # Ahead of the finalizers of queues, into which handlers may put something.
            util.Finalize(None, process_exit.close_all, exitpriority=0)

        util.register_after_fork(process_exit, register)
        if sys.modules["multiprocessing.process"].parent_process() is not None:
            register(None)


def _after_fork() -> None:
    generation.advance()
    process_exit.begun = False
    _close_with_multiprocessing()
    forget_thread()
    forget_waits()
    store_refs.after_fork()
    forget_wakers()
    for bus in list(live_buses):
        bus.lifecycle.after_fork()


atexit.register(process_exit.close_all)
_close_with_multiprocessing()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
