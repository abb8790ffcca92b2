"""Times, durations and counts as text, and the types of numeric options."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from datetime import datetime
from typing import Any, Final

_AGE_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60))
_MONTH: Final = 30 * 86400
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def format_time(at: float, *, with_date: bool = True) -> str:
    """A time in seconds since the epoch, as local time: with date and zone, or to the millisecond; ``?`` if invalid."""
    try:
        local = datetime.fromtimestamp(at).astimezone()
        return local.isoformat(" ", "seconds") if with_date else local.strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):  # a record may hold any number
        return "?"


def format_age(at: float, now: float) -> str:
    """How long before ``now`` a time was, both in seconds since the epoch: ``3 min ago``; after a month, its date."""
    seconds = now - at
    if not abs(seconds) < _MONTH:
        return format_time(at).partition(" ")[0]
    count, unit = int(abs(seconds)), "s"
    for longer, size in _AGE_UNITS:
        if abs(seconds) >= size:
            count, unit = int(abs(seconds) / size), longer
            break
    if not count:
        return "now"
    return f"{count} {unit} ago" if seconds > 0 else f"in {count} {unit}"


def format_duration(seconds: float) -> str:
    """A duration with its unit, from milliseconds to days."""
    if seconds < 0.0005:
        return "0 ms" if seconds <= 0 else "<1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    if seconds < 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def format_count(number: int, noun: str) -> str:
    """A number with its noun: ``1 event``, ``2 events``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def json_or_repr(value: Any) -> Any:
    """``value`` if JSON can hold it, else its repr."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value


def as_sentence(text: str) -> str:
    """``text`` with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def paragraph(*sentences: str) -> str:
    """Sentences as a paragraph of a command's description."""
    return textwrap.fill(" ".join(sentences), 80)


def examples(*commands: str) -> str:
    """Example commands as the epilog of a command's help."""
    return "\n".join(["examples:", *(f"  {command}" for command in commands)])


def parse_age(text: str) -> float:
    """The seconds in ``30d``, ``12h``, ``45m``, ``10s`` or ``2w``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"an age is a number followed by s, m, h, d or w, such as 30d; got {text!r}")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def parse_tag(text: str) -> tuple[str, str]:
    """The name and the value of a tag in ``KEY=VALUE``."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"a tag is KEY=VALUE; got {text!r}")
    return key, value


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1)


def non_negative_int(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0)


def _integer(text: str, minimum: int) -> int:
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"an integer of at least {minimum} is required; got {text!r}")
    return int(text)
