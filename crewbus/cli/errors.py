"""Descriptions of exceptions: on one line, with the place in the user's code where they were raised."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path
from typing import Final

from crewbus._util import escape_control, one_line
from crewbus.exceptions import text_of

_LIBRARY_FOLDERS: Final = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
_CREWBUS_FOLDER: Final = f"{Path(__file__).parent.parent}{os.sep}"
_LIBRARY_PREFIXES: Final = ("<", _CREWBUS_FOLDER, *(f"{folder}{os.sep}" for folder in _LIBRARY_FOLDERS))


def unwrap_group(error: BaseException) -> BaseException:
    """The only error in an exception group, or ``error`` itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def type_name(error: BaseException) -> str:
    """The error's type as ``module.Class``, or ``Class`` if it is built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def raised_at(error: BaseException) -> str | None:
    """``file:line`` of the innermost frame outside libraries, else of the innermost frame; None without frames."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_relative(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARY_PREFIXES)]
    for frame in reversed(own or frames):
        return f"{_relative(frame.filename)}:{frame.lineno}"
    return None


def describe(error: BaseException) -> str:
    """The error's type, message and place, on one line."""
    text = one_line(text_of(error))
    place = raised_at(error)
    return f"{type_name(error)}{f': {text}' if text else ''}{f' ({place})' if place else ''}"


def format_traceback(error: BaseException) -> str:
    """The error's traceback without the leading frames of crewbus, control characters escaped."""
    trace = first = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_CREWBUS_FOLDER):
        trace = trace.tb_next
    return escape_control("".join(traceback.format_exception(type(error), error, trace or first)).rstrip())


def _relative(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
