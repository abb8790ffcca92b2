"""Monitors of hook calls, which may end in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Undo = Callable[[], None]


class Monitor:
    """Two functions that pluggy calls before and after each hook call, until the monitor ends."""

    __slots__ = ("_after", "_before", "ended", "undo")

    def __init__(self, before: Callable[..., Any], after: Callable[..., Any]) -> None:
        self._before = before
        self._after = after
        self.undo: Undo | None = None
        self.ended = False

    def before(self, *call: Any) -> None:
        """Pass on a call that begins."""
        if not self.ended:
            self._before(*call)

    def after(self, *call: Any) -> None:
        """Pass on a call that has ended."""
        if not self.ended:
            self._after(*call)


class Monitors:
    """The monitors of one plugin manager. Its caller holds a lock."""

    def __init__(self, install: Callable[[Any, Any], Undo]) -> None:
        self._install = install
        self._installed: list[Monitor] = []

    def __bool__(self) -> bool:
        return bool(self._installed)

    def add(self, before: Callable[..., Any], after: Callable[..., Any]) -> Monitor:
        """Install a monitor."""
        monitor = Monitor(before, after)
        monitor.undo = self._install(monitor.before, monitor.after)
        self._installed.append(monitor)
        return monitor

    def end(self, monitor: Monitor) -> None:
        """End a monitor; it is uninstalled together with, or after, those that were added later."""
        monitor.ended = True
        while self._installed and self._installed[-1].ended:  # pluggy can only remove the last one
            undo = self._installed.pop().undo
            assert undo is not None
            undo()
