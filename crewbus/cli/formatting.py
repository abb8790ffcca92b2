"""Ages, sentences and JSON as text, and the types of numeric options."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from typing import Any, Final

from crewbus._util import format_time

_AGE_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60))
_MONTH: Final = 30 * 86400
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


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
