"""Interrupts at each place where Python looks for signals: an exception that a signal handler raises there."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from types import FrameType
from typing import Any, Final

import crewbus

PACKAGE: Final = str(Path(crewbus.__file__).parent)
STARTING: Final = (PACKAGE,) if sys.version_info >= (3, 14) else (PACKAGE, threading.__file__)
"""The files in which work is started. Since 3.14 an interrupt may leave a lock of `threading` itself held for ever:
see crewbus/_util/locks.py. No thread starts after that."""

_BACK: Final = frozenset(
    number for name, number in dis.opmap.items() if "JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name
)


_RESUME: Final = dis.opmap["RESUME"]


def _looks(frame: FrameType) -> bool:
    """Whether Python looks for signals as ``frame`` begins or goes on: it does not after an ``await``."""
    code, at = frame.f_code.co_code, frame.f_lasti
    begins = [i for i in (at, at + 2) if 0 <= i < len(code) and code[i] == _RESUME]
    return not begins or code[begins[0] + 1] & 3 < 2


class Interrupt(KeyboardInterrupt):
    """What the signal handler raises."""


def interrupted(
    point: int, function: Callable[[], object], *code: str, error: Callable[[], BaseException] = Interrupt
) -> bool:
    """Call it with an interrupt at the point-th place where Python looks for signals; whether there is such a place.

    These are the start of a function, the return from a function in C, and a jump back in a loop. ``code``: in which
    files; by default in crewbus's. ``error``: makes what is raised.
    """
    count, files = 0, code or (PACKAGE,)

    def look() -> None:
        nonlocal count
        count += 1
        if count == point:
            sys.setprofile(None)
            sys.settrace(None)
            raise error()

    def profile(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code.co_filename.startswith(files) and (event == "c_return" or (event == "call" and _looks(frame))):
            look()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if event == "call" and frame.f_code.co_filename.startswith(files):
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        elif event == "opcode" and frame.f_code.co_code[frame.f_lasti] in _BACK:
            look()
        return trace

    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        function()
    except BaseException:  # the interrupt, or what became of it
        if count < point:
            raise
    finally:
        sys.setprofile(None)
        sys.settrace(None)
    return count >= point


def at_each_point(
    play: Callable[[Callable[[Callable[[], object]], None]], object],
    *code: str,
    error: Callable[[], BaseException] = Interrupt,
    first: int = 1,
) -> int:
    """Call ``play`` once for each point of what it passes to the function that it is given; returns their number.

    Each play is in a context of its own. What it raises names the point.
    """
    for point in range(first, 5_000):
        reached = False

        def interrupt(function: Callable[[], object], point: int = point) -> None:
            nonlocal reached
            reached = interrupted(point, function, *code, error=error)

        try:
            copy_context().run(play, interrupt)
        except BaseException as failure:
            failure.add_note(f"interrupted at point {point}")
            raise
        if not reached:
            return point - 1
    raise AssertionError("there is no end of points")
