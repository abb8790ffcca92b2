"""Deadlines: a time limit that several waits share."""

from __future__ import annotations

import time


def deadline(timeout: float | None) -> float | None:
    """The monotonic time ``timeout`` seconds from now; None: no limit."""
    return None if timeout is None else time.monotonic() + timeout


def remaining(until: float | None) -> float | None:
    """The seconds until a `deadline`, at least 0; None: no limit."""
    return None if until is None else max(0.0, until - time.monotonic())
