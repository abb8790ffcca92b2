"""Functions run elsewhere, with their caller's context."""

from crewbus.work.owned import OwnedTask
from crewbus.work.propagation import Thread, ThreadPoolExecutor, bind
from crewbus.work.submitted import submission

__all__ = [
    "OwnedTask",
    "Thread",
    "ThreadPoolExecutor",
    "bind",
    "submission",
]
