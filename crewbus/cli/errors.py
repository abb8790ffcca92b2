"""Telling of an exception: on one line, and where in somebody's own code it came from."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path
from typing import Final

from crewbus.exceptions import text_of

_FOLDERS: Final = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
_CREWBUS: Final = f"{Path(__file__).parent.parent}{os.sep}"
_LIBRARIES: Final = ("<", _CREWBUS, *(f"{folder}{os.sep}" for folder in _FOLDERS))


def one_line(text: str, most: int = 300) -> str:
    """``text`` on one line of at most ``most`` characters, with nothing in it that a terminal would obey."""
    flat = harmless(" ".join(text.split()))
    return flat if len(flat) <= most else f"{flat[: most - 3]}..."


def harmless(text: str) -> str:
    """``text`` with nothing in it that a terminal would obey, but for the ends of lines."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def core_of(error: BaseException) -> BaseException:
    """What a task group's error is about, where that is one error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def type_of(error: BaseException) -> str:
    """The error's type by the name one would import; a builtin's by its own name."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def where(error: BaseException) -> str | None:
    """``file:line`` of the innermost frame outside of libraries, or of the innermost at all; None if it has none."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_shorten(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    for frame in reversed(own or frames):
        return f"{_shorten(frame.filename)}:{frame.lineno}"
    return None


def describe(error: BaseException) -> str:
    """The error's type and text on one line, and where it came from."""
    text = one_line(text_of(error))
    place = where(error)
    return f"{type_of(error)}{f': {text}' if text else ''}{f' ({place})' if place else ''}"


def story(error: BaseException) -> str:
    """The error's traceback, from the first frame that is not of crewbus."""
    trace = first = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_CREWBUS):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace or first)).rstrip()


def _shorten(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
