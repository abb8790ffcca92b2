"""The arguments of the runs: ``--arg`` and the lines of ``--input``."""

from __future__ import annotations

import codecs
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from crewbus.exceptions import InputError


@attrs.frozen
class Location:
    """A line of input."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@attrs.frozen
class Arguments:
    """The arguments of one run."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    location: Location | None = None
    """The line that they were read from."""


class InputLines:
    """Reads JSON lines, each of which holds the arguments of one run.

    An object holds arguments by name, which override ``defaults``; any other value is the only positional argument.
    Blank lines are skipped. Each iteration parses the bytes again, so that only they are kept in memory; it raises
    `InputError` naming the line.
    """

    def __init__(self, name: str, data: bytes, defaults: dict[str, Any]) -> None:
        self.name = name
        self._data = data.removeprefix(codecs.BOM_UTF8)
        self._defaults = defaults

    def __iter__(self) -> Iterator[Arguments]:
        # Only \n ends a line: str.splitlines() also splits at characters that JSON strings may hold.
        for number, raw in enumerate(io.BytesIO(self._data), start=1):
            if line := raw.strip(b" \t\r\n"):
                location = Location(self.name, number)
                yield self._arguments(_parse_line(line, location), location)

    def _arguments(self, value: Any, location: Location) -> Arguments:
        if isinstance(value, dict):
            return Arguments((), {**self._defaults, **value}, location)
        return Arguments((value,), self._defaults, location)


def read_lines(path: str, defaults: dict[str, Any]) -> InputLines:
    """Read a file, or standard input if ``path`` is ``-``. Raises `InputError`."""
    if path == "-":
        return InputLines("stdin", sys.stdin.buffer.read(), defaults)
    try:
        return InputLines(path, Path(path).read_bytes(), defaults)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def parse_arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """The values of ``--arg NAME=VALUE``, as JSON or else as strings. Raises `InputError`."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--arg {pair!r} is not NAME=VALUE")
        if name in values:
            raise InputError(f"--arg {name} is given twice")
        values[name] = _parse_value(name, text)
    return values


def _parse_value(name: str, text: str) -> Any:
    try:
        return _loads(text)
    except _DuplicateKeyError as error:
        raise InputError(f"--arg {name}: {error}") from None
    except (ValueError, RecursionError):
        return text


def _parse_line(line: bytes, location: Location) -> Any:
    try:
        return _loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{location}: not UTF-8: byte 0x{line[error.start]:02x} at {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{location}: not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise InputError(f"{location}: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{location}: {error}") from None


class _DuplicateKeyError(ValueError):
    pass


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_parse_object, parse_constant=_reject_constant)


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        [(name, count)] = Counter(name for name, _ in pairs).most_common(1)
        raise _DuplicateKeyError(f"the key {name!r} occurs {count} times")
    return value


def _reject_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
