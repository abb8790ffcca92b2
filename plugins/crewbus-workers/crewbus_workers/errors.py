"""The plugin's own errors."""

from __future__ import annotations

from crewbus import CrewbusError

__all__ = ["MessageTimeoutError"]


class MessageTimeoutError(CrewbusError, TimeoutError):
    """No message came in time. The run has recorded that: after a resume, the same call raises it again."""
