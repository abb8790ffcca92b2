"""What the tests of memory, flushing, recording and forking share."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

PATIENCE = 60.0
"""Seconds after which a wait means that something hangs."""


class Watch:
    """Weak references to what must be gone later."""

    def __init__(self) -> None:
        self._refs: list[weakref.ref[Any]] = []

    def __call__(self, thing: Any) -> Any:
        self._refs.append(weakref.ref(thing))
        return thing

    def __len__(self) -> int:
        return len(self._refs)

    def alive(self) -> list[str]:
        """The types of what is still there."""
        return [type(thing).__name__ for ref in self._refs if (thing := ref()) is not None]


def reachable(start: Iterable[Any], kinds: tuple[type, ...]) -> list[Any]:
    """The instances of ``kinds`` that can be reached from ``start``; classes, modules and globals are not entered."""
    queue, seen, found = list(start), set(), []
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType):
            continue
        seen.add(id(thing))
        if isinstance(thing, kinds):
            found.append(thing)
        elif isinstance(thing, types.FunctionType):
            queue += [*(thing.__closure__ or ()), *(thing.__defaults__ or ()), thing.__dict__]
        else:
            queue += gc.get_referents(thing)
    return found


class Caller(threading.Thread):
    """A call in a thread of its own, whose outcome `outcome` returns or raises."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._call = lambda: function(*args)
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def outcome(self, timeout: float = PATIENCE) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "the call hangs"
        if self._error is not None:
            raise self._error
        return self._result


def in_time(function: Callable[..., Any], *args: Any, timeout: float = PATIENCE) -> Any:
    """``function(*args)``, or a failure of the test if it hangs."""
    return Caller(function, *args).outcome(timeout)


def script(source: str, *options: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run ``source`` in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def until(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Poll until ``condition`` holds: for what can't be waited for."""
    pause, deadline = threading.Event(), time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("what was waited for did not happen")
