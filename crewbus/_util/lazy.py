"""Names of a package that are loaded when they are first used."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from crewbus._util.locks import reentrant_lock

PATIENCE: Final = 5.0
"""How many seconds a fork waits at most for what other threads load."""


class Loads:
    """The modules that threads load at first use, which a fork waits for.

    A child that is forked while another thread loads a module inherits the module's lock, held by a thread that it has
    not: it would wait for ever once it needs the module.
    """

    def __init__(self) -> None:
        self._running: set[object] = set()
        self._own = threading.local()
        self._gate = reentrant_lock()
        """Held to begin a load, for a moment, and during a fork."""

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Load something in the block. Never waits for the loads of other threads, which may wait for this one."""
        load = object()
        mine = self._mine()
        try:
            with self._gate:
                self._running.add(load)
            mine.add(load)
            yield
        finally:
            mine.discard(load)
            self._running.discard(load)

    def _mine(self) -> set[object]:
        if not hasattr(self._own, "loads"):
            self._own.loads = set()
        mine: set[object] = self._own.loads
        return mine

    def before_fork(self) -> None:
        """Wait for the loads of other threads, and let none begin."""
        until = time.monotonic() + PATIENCE
        self._gate.acquire()
        while self._running - self._mine() and time.monotonic() < until:
            self._gate.release()  # one of them may load something else
            time.sleep(0.001)
            self._gate.acquire()

    def after_fork_in_parent(self) -> None:
        """Let loads begin."""
        self._gate.release()

    def after_fork_in_child(self) -> None:
        """Forget the loads of threads that are not here."""
        self._running = set(self._mine())
        self._gate.release()


loads: Final = Loads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=loads.before_fork,
        after_in_parent=loads.after_fork_in_parent,
        after_in_child=loads.after_fork_in_child,
    )


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of ``package``, whose names live in its ``modules``: the names of each, with spaces between.

    For packages that a program may never need, since a module takes time to load.
    """
    home = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with loads.loading():
            value = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
