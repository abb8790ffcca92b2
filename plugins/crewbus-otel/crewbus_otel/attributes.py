"""What is said of a span: its name, and the attributes of what began and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from crewbus import CallCancelled, CallFailed, CallFinished, RunCancelled, RunFailed, RunSuspended, StepFailed
from crewbus_otel import conventions as names

Attributes = dict[str, Any]
_BILLION: Final = 1_000_000_000


def span_name(operation: str | None, subject: str | None) -> str:
    """An operation, and what it is done with; without an operation, the latter alone."""
    return " ".join(filter(None, (operation, subject)))


def described(given: Mapping[str, Any] | None) -> Attributes:
    """The attributes of a call, by the names of the conventions."""
    found: Attributes = {}
    for name, value in (given or {}).items():
        full = name if "." in name else names.ATTRIBUTES.get(name, f"crewbus.call.{name}")
        if _is_attribute(value):
            found[full] = value
        elif value is not None:
            found[full] = str(value)
    return found


def _is_attribute(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(one, str) for one in value)
    return isinstance(value, bool | int | float | str)


def end_attributes(event: Any) -> Attributes:
    """What is known of a scope once it has ended: why it ended so, and what a call was given to say meanwhile."""
    found = described(event.attributes) if isinstance(event, CallFinished | CallFailed | CallCancelled) else {}
    if isinstance(event, RunFailed | CallFailed | StepFailed):
        found[names.ERROR_TYPE] = event.error.removeprefix("builtins.") or "_OTHER"
    if isinstance(event, RunCancelled | CallCancelled | RunSuspended):
        found[names.REASON] = event.reason
    return found


def nanoseconds(seconds: float) -> int:
    """A time in the unit of spans."""
    return int(seconds * _BILLION)
