"""Warnings of crewbus, shown as notes of the command."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from crewbus.cli.terminal import Terminal
from crewbus.exceptions import CrewbusWarning, GraceWarning


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
