"""Standard output and standard error: colour, a progress line, columns."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TextIO

from crewbus.cli.errors import harmless

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_ERASE: Final = "\r\x1b[K"
_NARROWEST: Final = 24  # how narrow a wrapped column may get

Style = Callable[[str, str], Sequence[str]]


class Channel:
    """One of the two, and what it can do: coloured only if it is a terminal, and ``NO_COLOR`` is not set."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self.obeys = self.is_terminal and os.environ.get("TERM") != "dumb"
        """Whether it is a terminal that obeys escape sequences."""
        self.line_open = False
        """Whether what was written last did not end its line."""
        self._coloured = self.obeys and not os.environ.get("NO_COLOR")

    @property
    def width(self) -> int:
        """How many columns it has; 80 where that can't be told."""
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def shares(self, other: Channel) -> bool:
        """Whether both go to the same place: a terminal, a file, a pipe."""
        try:
            return os.path.sameopenfile(self.stream.fileno(), other.stream.fileno())
        except (OSError, ValueError):
            return False

    def paint(self, text: str, *styles: str) -> str:
        """``text`` in these styles, where there are colours."""
        if not (self._coloured and styles and text):
            return text
        return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"

    def write(self, text: str) -> None:
        """Write ``text`` at once, escaping what the encoding has no character for."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self.stream.flush()
        if text:
            self.line_open = not text.endswith("\n")


class Terminal:
    """What was asked for goes to ``out``; what there is to say about it goes to ``err``, where nobody need listen."""

    def __init__(self) -> None:
        self.out = Channel(sys.stdout)
        self.err = Channel(sys.stderr)
        self._shared = self.out.shares(self.err)
        self._drawn = False

    def note(self, text: str) -> None:
        """Lines of their own to standard error, in the place of the progress line.

        A line of ``out`` is ended for that where both go to the same place, and nowhere else.
        """
        self.erase()
        between = "\n" if self._shared and self.out.line_open else ""
        self.out.line_open = self.out.line_open and not between
        self._tell(f"{between}{text}\n")

    def warn(self, text: str) -> None:
        """A line to standard error that says what is amiss."""
        self.note(f"crewbus: {self.err.paint('warning:', 'yellow')} {harmless(text)}")

    def fail(self, text: str) -> None:
        """A line to standard error that says what ends the command."""
        self.note(f"crewbus: {self.err.paint('error:', 'red', 'bold')} {harmless(text)}")

    def draw(self, text: str) -> None:
        """Draw the progress line anew, in one style: it may be cut."""
        most = self.err.width - 1
        self._tell(_ERASE + self.err.paint(text[:most], "dim"))
        self._drawn = True

    def erase(self) -> None:
        """Take the progress line away."""
        if self._drawn:
            self._drawn = False
            self._tell(_ERASE)

    def _tell(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self.err.write(text)


def columns(channel: Channel, rows: Sequence[Sequence[str]], style: Style, *, right: bool = False) -> str:
    """``rows`` in columns, the first row the headings; on a terminal what is too long in the last column is wrapped.

    ``style(heading, cell)`` says how a cell is painted; ``right`` aligns to the right, for numbers.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    indent = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = max(_NARROWEST, channel.width - indent) if channel.is_terminal else sys.maxsize
    lines = []
    for row in rows:
        painted: list[str] = []
        for heading, cell, width in zip(rows[0], row, widths, strict=True):
            styles = ("dim",) if row is rows[0] else style(heading, cell)
            padding = " " * (width - len(cell))
            parts = textwrap.wrap(cell, room) if len(painted) == len(widths) - 1 else [cell]
            text = f"\n{' ' * indent}".join(channel.paint(part, *styles) for part in parts)
            painted.append(padding + text if right else text + padding)
        lines.append("  ".join(painted).rstrip())
    return "\n".join(lines) + "\n"
