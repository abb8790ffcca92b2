"""Warnings and log messages of crewbus, shown as notes of the command."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from crewbus._util import escape_control
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import CrewbusWarning, GraceWarning


class _Notes(logging.Handler):
    """Shows log messages as notes."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._terminal.note(escape_control(self.format(record)))
        except Exception:
            self.handleError(record)


@contextmanager
def log_as_notes(terminal: Terminal) -> Iterator[None]:
    """Show what crewbus logs as notes, unless the program handles it: Python would print it with control characters."""
    logger, notes = logging.getLogger("crewbus"), _Notes(terminal)
    handled = logger.hasHandlers()
    if not handled:
        logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)


class OverdueRuns:
    """Counts the runs that were still running when their grace period ended."""

    count = 0


@contextmanager
def warnings_as_notes(terminal: Terminal) -> Iterator[OverdueRuns]:
    """Show warnings of crewbus as notes, without file and line. A `GraceWarning` is only counted."""
    showwarning, overdue = warnings.showwarning, OverdueRuns()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, GraceWarning):
            overdue.count += 1
        elif issubclass(category, CrewbusWarning):
            terminal.warn(str(message))
        else:
            terminal.clear_progress()
            showwarning(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield overdue
    finally:
        warnings.showwarning = showwarning
