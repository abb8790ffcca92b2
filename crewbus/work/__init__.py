"""Functions run elsewhere, with their caller's context; and the lock for what threads share."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names, reentrant_lock

if TYPE_CHECKING:
    from crewbus.work.executor import ThreadPoolExecutor
    from crewbus.work.owned import OwnedTask
    from crewbus.work.propagation import Thread, bind
    from crewbus.work.submitted import submission

__all__ = [
    "OwnedTask",
    "Thread",
    "ThreadPoolExecutor",
    "bind",
    "reentrant_lock",
    "submission",
]

# Loaded at first use, and concurrent.futures with it: most buses own no work.
__getattr__ = lazy_names(
    __name__,
    {
        "executor": "ThreadPoolExecutor",
        "owned": "OwnedTask",
        "propagation": "Thread bind",
        "submitted": "submission",
    },
)
