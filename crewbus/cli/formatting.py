"""Times as people read them, and ages as they write them."""

from __future__ import annotations

import argparse
import re
from datetime import datetime
from typing import Final

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def moment(at: float, *, day: bool = True) -> str:
    """A time, in seconds since the epoch, as the local one in ISO form; ``?`` for what is none."""
    try:
        local = datetime.fromtimestamp(at).astimezone()
        return local.strftime("%Y-%m-%dT%H:%M:%S") if day else local.strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):  # a record may hold any number
        return "?"


def took(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def age(text: str) -> float:
    """The seconds of ``30d``, ``12h``, ``45m``, ``10s`` or ``2w``, for an option."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"an age is a number with s, m, h, d or w after it, such as 30d; got {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


def count(number: int, noun: str) -> str:
    """A number with its noun: ``1 event``, ``2 events``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def positive(text: str) -> int:
    """A number from 1, for an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1, not {text!r}")
    return int(text)
