"""Warnings of crewbus, as notes of the command."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from crewbus.cli.terminal import Terminal
from crewbus.exceptions import CrewbusWarning, GraceWarning


class Warned:
    """What is not said but counted."""

    overdue = 0
    """How many runs had not ended when their grace was over."""


@contextmanager
def plain_warnings(terminal: Terminal) -> Iterator[Warned]:
    """Show the warnings of crewbus as notes, without file and line, and count those of overdue runs."""
    usual, warned = warnings.showwarning, Warned()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, GraceWarning):
            warned.overdue += 1
        elif issubclass(category, CrewbusWarning):
            terminal.warn(str(message))
        else:
            terminal.erase()
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield warned
    finally:
        warnings.showwarning = usual
