"""What the tests share: events, a bus without entry points, threads that can't hang."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from typing import Any, Final

import pytest

import crewbus

BESIDE = Path(__file__).parent / "beside"
"""Links to packages of this checkout that tests import whether or not they are installed.

Without the metadata that a build leaves beside them, at whatever moment: with that a plugin would be installed.
"""
TIMEOUT = 60.0
"""Seconds after which a wait in a test has failed; nothing should ever come near it."""


def needs_fork(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test that forks. Coverage does not measure it: a child may inherit a lock of coverage's own, held."""
    return pytest.mark.forks_process(pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")(test))


@crewbus.event(name="tests.Noted")
class Noted:
    text: str = ""


@crewbus.event(name="tests.Done")
class Done(Noted):
    """A subclass of another event."""


@contextmanager
def quiet_bus(**options: Any) -> Iterator[crewbus.Bus]:
    """A bus of the built-in plugins alone, closed at the end."""
    with crewbus.Bus(entry_points=False, **options) as bus:
        yield bus


def in_thread(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call ``function`` in a thread without context, on every build; its result or exception is the future's."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=Context().run, args=(run,), daemon=True).start()
    return future


def in_threads(count: int, function: Callable[[int], Any]) -> list[Any]:
    """Call ``function(i)`` in ``count`` threads that begin at once; their results in order of ``i``."""
    barrier = threading.Barrier(count)

    def begin(i: int) -> Any:
        barrier.wait(TIMEOUT)
        return function(i)

    futures = [in_thread(begin, i) for i in range(count)]
    return [future.result(TIMEOUT) for future in futures]


earlier_threads: Final[set[threading.Thread]] = set()
"""Those that ran when the test began: one that failed may have left its own."""


def crewbus_threads() -> list[str]:
    """The names of the threads that crewbus started in this test and that live."""
    return [one.name for one in threading.enumerate() if one.name.startswith("crewbus") and one not in earlier_threads]
