"""Contained errors: a failing integration must not break the library's own work."""

from __future__ import annotations

import logging
from types import TracebackType

from crewbus.exceptions import RecordingError, ReplayMismatch

_log = logging.getLogger("crewbus")


class Contained:
    """A context manager that logs an exception with ``message`` and suppresses it; see `Integration.contained`."""

    __slots__ = ("_message",)

    def __init__(self, message: str) -> None:
        self._message = message

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, RecordingError | ReplayMismatch):
            return False
        _log.error("%s", self._message, exc_info=error)
        return True
