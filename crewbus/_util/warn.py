"""Warnings that point at the user's code."""

from __future__ import annotations

import sys


def external_stacklevel(*libraries: str) -> int:
    """The stack level, for a warning issued by the caller, of the first frame outside crewbus and ``libraries``."""
    packages = {"crewbus", *libraries}
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in packages:
        level, frame = level + 1, frame.f_back
    return level
