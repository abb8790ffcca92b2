"""What the runs are called with: ``--arg`` and the lines of ``--input``."""

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
class Place:
    """A line of input."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@attrs.frozen
class Call:
    """The arguments of one run, and where they come from, if from a line."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: Place | None = None


class Lines:
    """The calls that JSON lines ask for: each a run.

    An object gives arguments by name, over those ``given``; any other value one by position. Blank lines
    are none. Iterating parses anew, so that only the bytes are kept; it raises `InputError` naming the line.
    """

    def __init__(self, name: str, data: bytes, given: dict[str, Any]) -> None:
        self.name = name
        self._data = data.removeprefix(codecs.BOM_UTF8)
        self._given = given

    def __iter__(self) -> Iterator[Call]:
        # A line ends with \n and nothing else: JSON strings may hold what str.splitlines() splits at.
        for number, raw in enumerate(io.BytesIO(self._data), start=1):
            if line := raw.strip(b" \t\r\n"):
                place = Place(self.name, number)
                yield self._call(_parse_line(line, place), place)

    def _call(self, value: Any, place: Place) -> Call:
        if isinstance(value, dict):
            return Call((), {**self._given, **value}, place)
        return Call((value,), self._given, place)


def read(path: str, given: dict[str, Any]) -> Lines:
    """The lines of a file, or of standard input if ``path`` is ``-``; raises `InputError` if it can't be read."""
    if path == "-":
        return Lines("stdin", sys.stdin.buffer.read(), given)
    try:
        return Lines(path, Path(path).read_bytes(), given)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def parse_arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """The values of ``--arg NAME=VALUE``: JSON where they parse as JSON, else the string; raises `InputError`."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--arg {pair!r}: give it as NAME=VALUE")
        if name in values:
            raise InputError(f"--arg {name} is given twice")
        values[name] = _parse_value(name, text)
    return values


def _parse_value(name: str, text: str) -> Any:
    try:
        return _loads(text)
    except _RepeatedKey as error:
        raise InputError(f"--arg {name}: {error}") from None
    except (ValueError, RecursionError):
        return text


def _parse_line(line: bytes, place: Place) -> Any:
    try:
        return _loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8: byte 0x{line[error.start]:02x} at {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise InputError(f"{place}: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{place}: {error}") from None


class _RepeatedKey(ValueError):
    pass


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        most = Counter(name for name, _ in pairs).most_common(1)
        raise _RepeatedKey(f"the key {most[0][0]!r} is there {most[0][1]} times")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
