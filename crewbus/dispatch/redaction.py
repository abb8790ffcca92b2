"""Redaction: plugins replace an event by what may be seen of it, ahead of every sink."""

from __future__ import annotations

from typing import Any, Final

from crewbus.events import (
    AttemptEnded,
    AttemptStarted,
    CallCancelled,
    CallEnded,
    CallFailed,
    CallFinished,
    CallStarted,
    CheckpointSaved,
    EntitySaved,
    Retracted,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunForked,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepEnded,
    StepFailed,
    StepStarted,
    event_type_of,
)
from crewbus.exceptions import RedactionError, text_of
from crewbus.plugins import Function

REQUIRED_FIELDS: Final = {
    RunStarted: ("key",),
    RunEnded: (),
    CallStarted: (),
    CallEnded: (),
    AttemptStarted: (),
    AttemptEnded: ("number", "outcome"),
    Retracted: ("since", "parents"),
    StepStarted: ("ordinal", "inline", "identity"),
    StepEnded: (),
    CheckpointSaved: ("name", "entities", "automatic"),
    EntitySaved: ("name", "type", "version", "base"),
    RunResumed: ("at", "epoch", "checkpoint"),
    RunSuspended: ("until",),
    RunForked: ("of", "at"),
}
"""The event types that crewbus itself reads: a redactor may change neither their type nor these fields."""
_WITHHELD: Final = "(withheld: a redactor failed)"


class Redaction:
    """The chain of the plugins that redact: each gets what the one before it returned."""

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self.chain: tuple[tuple[str, Function], ...] = ()
        """The functions that redact, each with the name of its plugin."""

    def apply(self, run: Any, event: Any) -> Any:
        """``event`` redacted. Raises `RedactionError`, naming the plugin that failed."""
        for name, function in self.chain:
            try:
                replaced = function(self._bus, run, event)
                if replaced is not None:
                    event = _checked(event, replaced)
            except Exception as error:
                raise RedactionError(
                    f"the plugin {name!r} failed to redact {type(event).__qualname__} "
                    f"({type(error).__name__}: {text_of(error)}): it was not emitted"
                ) from error
        return event


def _checked(event: Any, replaced: Any) -> Any:
    event_type_of(type(replaced))
    for kind, fixed in REQUIRED_FIELDS.items():
        if not isinstance(event, kind):
            continue
        if type(replaced) is not type(event):
            raise TypeError(
                f"crewbus itself reads {type(event).__qualname__}, so its type must stay; "
                f"got {type(replaced).__qualname__}"
            )
        if any(getattr(replaced, name) != getattr(event, name) for name in fixed):
            raise TypeError(f"these fields of {type(event).__qualname__} must stay unchanged: {', '.join(fixed)}")
    return replaced


def withheld(event: Any) -> Any:
    """``event``, which ends something, without the content that a redactor failed to judge."""
    if isinstance(event, RunFailed | CallFailed):
        return type(event)(event.error, _WITHHELD)
    if isinstance(event, StepFailed):
        return StepFailed(event.name, event.error, _WITHHELD)
    if isinstance(event, Retracted):
        return Retracted(event.since, _WITHHELD, event.parents)
    if isinstance(event, AttemptEnded):
        return AttemptEnded(event.number, event.outcome, event.error, _WITHHELD if event.message else "")
    if isinstance(event, RunSuspended):
        return RunSuspended(until=event.until)
    return type(event)() if isinstance(event, RunCancelled | CallCancelled | CallFinished) else event
