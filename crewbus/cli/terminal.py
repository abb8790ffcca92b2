"""Standard output and standard error: colour, a progress line, messages."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import Final, TextIO

from crewbus._util import ELLIPSIS, escape_control
from crewbus.cli.text import TIMES, shorten

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_OWN_STYLES: Final = re.compile("(\x1b\\[(?:(?:[012]|3[123])(?:;(?=[123]))?)+m)")
_CLEAR_LINE: Final = "\r\x1b[K"


class OutputStream:
    """Standard output or standard error.

    It is coloured if it is a terminal and ``NO_COLOR`` is not set, or if ``FORCE_COLOR`` is. A terminal gets no control
    characters but newlines, tabs and the colours of `styled`; with ``raw`` it gets all, as files and pipes do.
    """

    def __init__(self, stream: TextIO, *, raw: bool = False) -> None:
        self.stream = stream
        self.raw = raw
        self.is_terminal = stream.isatty()
        self.supports_escapes = self.is_terminal and os.environ.get("TERM") != "dumb"
        self.in_line = False
        """Whether the last write did not end its line."""
        self._coloured = bool(os.environ.get("FORCE_COLOR")) or (
            self.supports_escapes and not os.environ.get("NO_COLOR")
        )

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
        """Write text of which parts may be `styled`, and flush. What comes from a run in it is escaped already."""
        self._send(text if self.raw or not self.is_terminal else _keep_styles(text))

    def write_text(self, text: str) -> None:
        """Write text that comes from a run, and flush."""
        self._send(text if self.raw or not self.is_terminal else escape_control(text))

    def page(self, text: str) -> None:
        """Write as `write` does, through ``$PAGER`` or ``less`` if a terminal has fewer lines."""
        pager = shlex.split(os.environ.get("PAGER") or "less")
        fits = not self.supports_escapes or text.count("\n") < shutil.get_terminal_size().lines
        if fits or not pager or shutil.which(pager[0]) is None:
            self.write(text)
            return
        # As git does: less leaves at once if the text fits, and shows colours.
        environment = {"LESS": "FRX", "LESSCHARSET": "utf-8", **os.environ}
        reader = subprocess.Popen(pager, stdin=subprocess.PIPE, env=environment, encoding="utf-8")
        with reader, suppress(BrokenPipeError, KeyboardInterrupt):
            reader.communicate(_keep_styles(text))

    def replace_line(self, text: str) -> None:
        """Write ``text``, of which parts are `styled`, in place of the line that the cursor is in."""
        self._send(_CLEAR_LINE + _keep_styles(text))

    def _send(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            plain = text.replace(ELLIPSIS, "...").replace(TIMES, "x")
            self.stream.write(plain.encode(encoding, "backslashreplace").decode(encoding))
        self.stream.flush()
        if text:
            self.in_line = not text.endswith("\n")


def _keep_styles(text: str) -> str:
    """``text`` with all control characters escaped but those of styles."""
    parts = _OWN_STYLES.split(text)
    parts[::2] = map(escape_control, parts[::2])
    return "".join(parts)


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
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            self.err.write(f"{newline}{text}\n")

    def warn(self, text: str) -> None:
        """Write a warning to standard error."""
        self.note(f"crewbus: {self.err.styled('warning:', 'yellow')} {escape_control(text)}")

    def error(self, text: str) -> None:
        """Write the error that ends the command to standard error."""
        self.note(f"crewbus: {self.err.styled('error:', 'red', 'bold')} {escape_control(text)}")

    def show_progress(self, text: str) -> None:
        """Replace the progress line, cut to the terminal's width."""
        width = self.err.width - 1
        self._replace_line(self.err.styled(shorten(text, width), "dim"))
        self._progress_shown = True

    def clear_progress(self) -> None:
        """Remove the progress line."""
        if self._progress_shown:
            self._progress_shown = False
            self._replace_line("")

    def _replace_line(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            self.err.replace_line(text)
