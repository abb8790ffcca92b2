"""Deadlines: a time limit that several waits share."""

from __future__ import annotations

import math
import time
from typing import Any

from crewbus.exceptions import InputError


def deadline(timeout: float | None) -> float | None:
    """The monotonic time ``timeout`` seconds from now; None: no limit."""
    return None if timeout is None else time.monotonic() + checked_seconds(timeout)


def checked_seconds(value: Any) -> float:
    """``value``. Raises `InputError` unless it is a number of seconds."""
    if not isinstance(value, int | float) or math.isnan(value):
        raise InputError(f"a timeout is a number of seconds; got {value!r}")
    return value


def remaining(until: float | None) -> float | None:
    """The seconds until a `deadline`, at least 0; None: no limit."""
    return None if until is None else max(0.0, until - time.monotonic())
