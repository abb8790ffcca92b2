"""Times, durations and counts as text."""

from __future__ import annotations

from datetime import datetime


def format_time(at: float, *, with_date: bool = True) -> str:
    """A time in seconds since the epoch, as local time: with date and zone, or to the millisecond; ``?`` if invalid."""
    try:
        local = datetime.fromtimestamp(at).astimezone()
        return local.isoformat(" ", "seconds") if with_date else local.strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):  # a record may hold any number
        return "?"


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
