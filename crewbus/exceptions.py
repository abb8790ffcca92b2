"""Every error that crewbus raises, under one root.

`CrewbusError` is the root of what means "something was wrong". `Cancelled` stands apart: it is the
way out of a run that was cancelled, a `BaseException`, so that ``except Exception`` does not swallow it.
"""

from __future__ import annotations

__all__ = [
    "BusClosedError",
    "CallError",
    "CallbackError",
    "Cancelled",
    "ConsumptionError",
    "CorruptRecordError",
    "CrewbusError",
    "CrewbusWarning",
    "DecodeError",
    "EventTypeError",
    "FencedError",
    "FlushError",
    "FlushTimeoutError",
    "GraceWarning",
    "InputError",
    "OversizedEventError",
    "PluginError",
    "PluginWarning",
    "RecordingError",
    "RedactionError",
    "ReplayMismatch",
    "ResultTimeoutError",
    "RunCancelledError",
    "RunError",
    "RunHeldError",
    "RunIdInUseError",
    "RunNotFoundError",
    "SlowConsumer",
    "StepError",
    "StoreFullError",
    "StoreVersionError",
    "TargetError",
    "UnregisteredEventError",
    "UnscopedError",
    "UnscopedWarning",
    "UnserializableError",
]


def text_of(error: BaseException) -> str:
    """``str(error)``, even where that raises."""
    try:
        return str(error)
    except Exception:
        return f"({type(error).__name__} without a readable text)"


class CrewbusError(Exception):
    """The root of all errors of crewbus."""


class BusClosedError(CrewbusError):
    """The bus was closed and takes nothing more."""


class EventTypeError(CrewbusError):
    """A class can't serve as an event type: what it is, and how to register it."""


class UnregisteredEventError(EventTypeError):
    """An object was emitted whose class is not registered as an event type."""


class UnserializableError(EventTypeError):
    """An event would not survive being recorded: names the event type and the field."""


class DecodeError(CrewbusError):
    """Recorded bytes are not what their event type says; nothing named in them was executed."""


class RunError(CrewbusError):
    """A run, or an attempt at something in it, is used in a way its state does not allow."""


class RunIdInUseError(RunError):
    """The id belongs to a run that is live, or that is recorded."""


class RunNotFoundError(RunError):
    """No run of that id is live, recorded, or started within the time given."""


class RunHeldError(RunError):
    """A run can't be taken because it is alive elsewhere: names who holds it, and until when at least."""


class ReplayMismatch(RunError):
    """A resumed run asks for other steps than it recorded: the first divergence.

    ``expected`` and ``found`` are steps in words, ``scope`` is the run or step in which they stand.
    """

    def __init__(self, message: str, *, expected: str = "", found: str = "", scope: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found
        self.scope = scope


class RunCancelledError(RunError):
    """The result was asked for of a run that was cancelled."""


class ResultTimeoutError(RunError, TimeoutError):
    """The time given to wait for a result ran out; the run goes on."""


class UnscopedError(RunError):
    """With ``unscoped="raise"``: a chunk was emitted outside any run, or an event in a finished one."""


class StepError(CrewbusError):
    """A step is declared or called in a way that can't work: which one, and what to do."""


class CallError(CrewbusError):
    """A call is used in a way its state does not allow."""


class CallbackError(CrewbusError):
    """What was given as a callback can't serve as one: what it is, and what is needed."""


class ConsumptionError(CrewbusError):
    """A stream is consumed in a way that can't work: both ``for`` and ``async for``, or blocking a loop."""


class SlowConsumer(CrewbusError):
    """A stream was failed because its consumer fell too far behind."""


class RecordingError(CrewbusError):
    """What should be recorded was not: the reason, and what to do."""


class OversizedEventError(RecordingError):
    """An event is larger than the bound for one event: names its type, its size and the bound."""


class FencedError(RecordingError):
    """Another process has taken the run over: what this one still emits in it is not written."""


class CorruptRecordError(RecordingError):
    """A store's bytes are not those that were written: damaged, cut, or never a record. Nothing in them was run."""


class StoreVersionError(RecordingError):
    """A store was written by a newer release than this one reads, or is not a store: both versions, and what to do."""


class StoreFullError(RecordingError):
    """The store's bound is reached and nothing finished is left to give up."""


class RedactionError(CrewbusError):
    """A redactor failed; the event was kept from every sink, since it may hold what must not be seen."""


class FlushError(CrewbusError):
    """Flushing here could never end, or what is owed can never be handled."""


class FlushTimeoutError(FlushError, TimeoutError):
    """The time given to a flush ran out: names what is still owed."""


class PluginError(CrewbusError):
    """A plugin was refused: its name, its distribution and the reason."""


class TargetError(CrewbusError):
    """The command's TARGET can't be found, imported or called."""


class InputError(CrewbusError):
    """The command's input is malformed: names file and line."""


class CrewbusWarning(UserWarning):
    """The root of all warnings of crewbus."""


class PluginWarning(CrewbusWarning):
    """A plugin was skipped: its name, its distribution and the reason."""


class UnscopedWarning(CrewbusWarning):
    """A chunk was emitted outside any run, or an event in a finished one: no stream gets it."""


class GraceWarning(CrewbusWarning):
    """Work still runs after the time it had to end: names it."""


class Cancelled(BaseException):
    """The run was cancelled; raised once in each thread or task that calls crewbus inside it."""
