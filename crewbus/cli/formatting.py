"""Times, durations and counts as text, and the types of numeric options."""

from __future__ import annotations

import argparse
import re
import textwrap
from datetime import datetime
from typing import Final

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def format_time(at: float, *, with_date: bool = True) -> str:
    """A time, in seconds since the epoch, as local time in ISO format; ``?`` if it is out of range."""
    try:
        local = datetime.fromtimestamp(at).astimezone()
        return local.strftime("%Y-%m-%dT%H:%M:%S") if with_date else local.strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):  # a record may hold any number
        return "?"


def format_duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def format_count(number: int, noun: str) -> str:
    """A number with its noun: ``1 event``, ``2 events``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
