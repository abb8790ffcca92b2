"""Faults of an integration's own: what goes wrong in telling of a library's work must not break the work."""

from __future__ import annotations

import logging
from types import TracebackType

from crewbus.exceptions import RecordingError, ReplayMismatch

_log = logging.getLogger("crewbus")


class Contained:
    """A ``with`` that logs an exception raised in it, as ``message``, and goes on; see `Integration.contained`."""

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
