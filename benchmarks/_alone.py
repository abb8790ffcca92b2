"""What is measured in a process of its own: memory, and what a load does to it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

_STATM: Final = Path("/proc/self/statm")


def alone(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)``, called in a fresh process; it must stand in a module that can be imported there."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args).result()


def resident() -> int:
    """The resident set of this process in bytes; if the system doesn't report it, the largest so far."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def settled() -> int:
    """As `resident`, with what is garbage collected before."""
    gc.collect()
    return resident()
