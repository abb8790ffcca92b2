"""Faults of ours: what goes wrong in telling of crewAI's work must not break the work."""

from __future__ import annotations

import logging
from types import TracebackType

from crewbus import RecordingError, ReplayMismatch

_log = logging.getLogger("crewbus")


class contained:  # noqa: N801 - reads as what it says
    """A ``with`` that logs an exception raised in it, saying ``what`` failed, and goes on.

    Not contained are a `crewbus.RecordingError` and a `crewbus.ReplayMismatch`, since hiding them would be a lie, and
    what is no `Exception`, such as `crewbus.Cancelled`.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, RecordingError | ReplayMismatch):
            return False
        _log.error("crewbus-crewai: %s failed; crewAI goes on", self._what, exc_info=error)
        return True
