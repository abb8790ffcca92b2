"""Standard output and standard error: colour, a progress line, tables."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TextIO

from crewbus.cli.errors import escape_control

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_CLEAR_LINE: Final = "\r\x1b[K"
_MIN_WRAP_WIDTH: Final = 24

CellStyle = Callable[[str, str], Sequence[str]]


class OutputStream:
    """Standard output or standard error. It is coloured if it is a terminal and ``NO_COLOR`` is not set."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self.supports_escapes = self.is_terminal and os.environ.get("TERM") != "dumb"
        self.in_line = False
        """Whether the last write did not end its line."""
        self._coloured = self.supports_escapes and not os.environ.get("NO_COLOR")

    @property
    def width(self) -> int:
        """The width in columns, or 80 if it is unknown."""
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def same_file(self, other: OutputStream) -> bool:
        """Whether both write to the same terminal, file or pipe."""
        try:
            return os.path.sameopenfile(self.stream.fileno(), other.stream.fileno())
        except (OSError, ValueError):
            return False

    def styled(self, text: str, *styles: str) -> str:
        """``text`` in these styles, if the stream is coloured."""
        if not (self._coloured and styles and text):
            return text
        return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"

    def write(self, text: str) -> None:
        """Write ``text`` and flush. Characters that the encoding lacks are escaped."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self.stream.flush()
        if text:
            self.in_line = not text.endswith("\n")


class Terminal:
    """Results go to ``out``, messages about them to ``err``. An error while writing to ``err`` is ignored."""

    def __init__(self) -> None:
        self.out = OutputStream(sys.stdout)
        self.err = OutputStream(sys.stderr)
        self._same_file = self.out.same_file(self.err)
        self._progress_shown = False

    def note(self, text: str) -> None:
        """Write a message to standard error, in place of the progress line.

        An open line of ``out`` is ended first if both streams write to the same file.
        """
        self.clear_progress()
        newline = "\n" if self._same_file and self.out.in_line else ""
        self.out.in_line = self.out.in_line and not newline
        self._write_err(f"{newline}{text}\n")

    def warn(self, text: str) -> None:
        """Write a warning to standard error."""
        self.note(f"crewbus: {self.err.styled('warning:', 'yellow')} {escape_control(text)}")

    def error(self, text: str) -> None:
        """Write the error that ends the command to standard error."""
        self.note(f"crewbus: {self.err.styled('error:', 'red', 'bold')} {escape_control(text)}")

    def show_progress(self, text: str) -> None:
        """Replace the progress line, cut to the terminal's width."""
        width = self.err.width - 1
        self._write_err(_CLEAR_LINE + self.err.styled(text[:width], "dim"))
        self._progress_shown = True

    def clear_progress(self) -> None:
        """Remove the progress line."""
        if self._progress_shown:
            self._progress_shown = False
            self._write_err(_CLEAR_LINE)

    def _write_err(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            self.err.write(text)


def format_table(out: OutputStream, rows: Sequence[Sequence[str]], style: CellStyle, *, right: bool = False) -> str:
    """``rows`` as a table, the first row being the headings. On a terminal, the last column is wrapped.

    ``style(heading, cell)`` returns a cell's styles; ``right`` aligns the cells to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    indent = sum(widths[:-1]) + 2 * (len(widths) - 1)
    wrap_width = max(_MIN_WRAP_WIDTH, out.width - indent) if out.is_terminal else sys.maxsize
    lines = []
    for row in rows:
        cells: list[str] = []
        for heading, cell, width in zip(rows[0], row, widths, strict=True):
            styles = ("dim",) if row is rows[0] else style(heading, cell)
            padding = " " * (width - len(cell))
            parts = textwrap.wrap(cell, wrap_width) if len(cells) == len(widths) - 1 else [cell]
            text = f"\n{' ' * indent}".join(out.styled(part, *styles) for part in parts)
            cells.append(padding + text if right else text + padding)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
