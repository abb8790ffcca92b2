"""Functions run elsewhere, with their caller's context; and the lock for what threads share."""

from crewbus._util import reentrant_lock
from crewbus.work.owned import OwnedTask
from crewbus.work.propagation import Thread, ThreadPoolExecutor, bind
from crewbus.work.submitted import submission

__all__ = [
    "OwnedTask",
    "Thread",
    "ThreadPoolExecutor",
    "bind",
    "reentrant_lock",
    "submission",
]
