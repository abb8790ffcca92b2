"""Every error that crewbus raises, under one root.

`CrewbusError` is the root of all errors. `Cancelled` and `Suspended` are none of them: they unwind a run that was
cancelled or suspended, and each is a `BaseException`, so that ``except Exception`` does not swallow it.
"""

from __future__ import annotations

import sys
from typing import ClassVar, Final

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
    "RejectedError",
    "ReplayMismatch",
    "ResultTimeoutError",
    "RunCancelledError",
    "RunEndedError",
    "RunError",
    "RunFailedError",
    "RunHeldError",
    "RunIdInUseError",
    "RunNotFoundError",
    "RunSuspendedError",
    "SlowConsumer",
    "StepError",
    "StepFailedError",
    "StepWarning",
    "StoreFullError",
    "StoreVersionError",
    "Suspended",
    "TargetError",
    "UnregisteredEventError",
    "UnscopedError",
    "UnscopedWarning",
    "UnserializableError",
]


DOCUMENTATION: Final = ""
"""The address of the documentation, with a slash at its end, once it has one. Messages, and nothing else, read it."""


def see_page(page: str) -> str:
    """What a message says about a page of the documentation."""
    return f"See {DOCUMENTATION}{page}.html" if DOCUMENTATION else f"See the page {page} of crewbus's documentation."


def text_of(error: BaseException) -> str:
    """``str(error)``, or a placeholder if that raises."""
    try:
        return str(error)
    except Exception:
        return f"({type(error).__name__} without a readable text)"


FAILED_STEPS: Final = "_crewbus_failed_steps"
"""The attribute of an exception in which crewbus notes the steps that failed with it."""


def note_failed_step(error: BaseException, identity: str) -> None:
    """Note that the step of this identity failed with ``error``."""
    # Not by setattr(): an exception may be frozen.
    error.__dict__[FAILED_STEPS] = (*error.__dict__.get(FAILED_STEPS, ()), identity)


def failed_steps(error: BaseException | None) -> tuple[str, ...]:
    """The identities of the steps that failed with ``error``, with an exception in it, or with its explicit cause."""
    found: dict[str, None] = {}
    waiting, seen = [error], set[int]()
    while waiting:
        here = waiting.pop()
        if here is None or id(here) in seen:
            continue
        seen.add(id(here))
        found.update(dict.fromkeys(here.__dict__.get(FAILED_STEPS, ())))
        waiting.append(here.__cause__)
        if isinstance(here, BaseExceptionGroup):
            waiting += here.exceptions
    return tuple(found)


class Cancelled(BaseException):
    """The run was cancelled: raised in the run's own work, once in each thread or task that calls crewbus in it.

    Once the run has ended, it is raised at each further call. It is never raised in handlers, callbacks or observers.
    """

    run_id: str | None = None
    """The run that was cancelled."""


class Suspended(BaseException):
    """The recorded run was suspended: raised in the run's own work, as `Cancelled` is, to be resumed later.

    What the work emits on its way out is discarded, and each step, call or attempt that it begins raises this again.
    """

    run_id: str | None = None
    """The run that was suspended."""


def is_cancellation(error: BaseException | None) -> bool:
    """Whether ``error`` ends work that is no longer wanted, so that nothing in the work went wrong.

    That is `Cancelled`, `Suspended`, ``asyncio.CancelledError``, KeyboardInterrupt, GeneratorExit, and a group of
    nothing else.
    """
    if isinstance(error, BaseExceptionGroup):
        return not isinstance(error, Exception) and all(map(is_cancellation, error.exceptions))
    if error is None or isinstance(error, Exception):
        return False
    asyncio = sys.modules.get("asyncio.exceptions")  # what is not loaded has raised nothing
    return isinstance(error, Cancelled | Suspended | KeyboardInterrupt | GeneratorExit) or (
        asyncio is not None and isinstance(error, asyncio.CancelledError)
    )


class CrewbusError(Exception):
    """The root of all errors of crewbus. A note below the traceback names the page about it, if there is one."""

    page: ClassVar[str] = ""
    """The page of the documentation about this error, without its suffix."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if self.page:
            self.add_note(see_page(self.page))


class BusClosedError(CrewbusError):
    """The bus is closed and accepts no more work."""

    page = "howto/end-cleanly"


class EventTypeError(CrewbusError):
    """A class can't be an event type. The message names it and says how to register it."""

    page = "howto/add-event-types-and-converters"


class UnregisteredEventError(EventTypeError):
    """The class of an emitted object is not registered as an event type."""


class UnserializableError(EventTypeError):
    """A value would not survive being recorded. The message names the type and the field."""


class DecodeError(CrewbusError):
    """Recorded bytes do not match their event type. Nothing named in them was executed."""

    page = "explanation/failure-modes"


class RunError(CrewbusError):
    """The state of a run or attempt does not allow this use of it."""


class RunIdInUseError(RunError):
    """The id belongs to a live or a recorded run."""

    page = "howto/resume-after-a-crash"


class RunNotFoundError(RunError):
    """No run with that id is live or recorded, or started within the timeout."""

    page = "howto/record-runs"


class RunHeldError(RunError):
    """Another process holds the run. The message names the holder and the end of its lease."""

    page = "howto/run-several-workers"


class ReplayMismatch(RunError):
    """A resumed run calls other steps than it recorded.

    ``expected`` and ``found`` describe the first steps that differ, ``scope`` the run or step that they belong to.
    """

    page = "durability"

    def __init__(self, message: str, *, expected: str = "", found: str = "", scope: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found
        self.scope = scope


class RunCancelledError(RunError, Cancelled):
    """The code around a cancelled run gets it: from leaving the ``with`` block, or from asking for the result.

    It is an Exception, since that code was not cancelled. It is a `Cancelled` too, so that one clause catches both.
    """

    page = "howto/cancel"


class RunFailedError(RunError):
    """A run has failed, with an exception that can't be raised here as itself.

    ``run_id`` is the run's id, ``error`` the qualified name of the exception's type, ``message`` its text.
    """

    page = "howto/get-the-result"

    def __init__(self, run_id: str, error: str, message: str) -> None:
        super().__init__(run_id, error, message)
        self.run_id = run_id
        self.error = error
        self.message = message

    def __str__(self) -> str:
        return (
            f"run {self.run_id} failed with {self.error}: {self.message} (to be raised as itself, its type is "
            "registered by crewbus.register_exception())"
        )


class RunSuspendedError(RunError, Suspended):
    """Raised where the ``with`` block of a suspended run is left. The run continues when a process resumes it."""

    page = "howto/deploy"


class ResultTimeoutError(RunError, TimeoutError):
    """The result was not there within the timeout. The run continues."""

    page = "howto/get-the-result"


class UnscopedError(RunError):
    """With ``unscoped="raise"``: a chunk was emitted outside any run, or an event in a finished one."""

    page = "howto/carry-context-into-threads"


class StepError(CrewbusError):
    """A step is declared or called in a way that can't work. The message names it and says what to do."""

    page = "durability"


class StepFailedError(CrewbusError):
    """A step failed before its run was resumed, with an exception that can't be raised again as itself.

    ``step`` is the step's name, ``error`` the qualified name of the exception's type, ``message`` its text.
    """

    page = "durability"

    def __init__(self, step: str, error: str, message: str) -> None:
        super().__init__(step, error, message)
        self.step = step
        self.error = error
        self.message = message

    def __str__(self) -> str:
        return (
            f"step {self.step!r} failed with {self.error}: {self.message} (to be raised as itself, its type is "
            "registered by crewbus.register_exception(), or named in @step(raises=...))"
        )


class CallError(CrewbusError):
    """The state of a call does not allow this use of it."""


class CallbackError(CrewbusError):
    """An object can't be a callback. The message describes it and says what is needed."""

    page = "howto/isolate-callbacks"


class ConsumptionError(CrewbusError):
    """A stream is consumed in a way that can't work: both ``for`` and ``async for``, or blocking a loop."""

    page = "howto/consume-a-stream"


class SlowConsumer(CrewbusError):
    """A consumer or background handler fell too far behind: its stream fails, or events were discarded."""

    page = "howto/consume-a-stream"


class RecordingError(CrewbusError):
    """Something could not be recorded or read. The message says why, and what to do."""

    page = "howto/record-runs"


class OversizedEventError(RecordingError):
    """An event exceeds the size limit. The message names its type, its size and the limit."""


class FencedError(RecordingError):
    """Another process took the run over. Nothing that this process still emits in it is written."""

    page = "howto/run-several-workers"


class CorruptRecordError(RecordingError):
    """A store's bytes are damaged, truncated, or no record. Nothing named in them was executed."""

    page = "explanation/failure-modes"


class RunEndedError(RecordingError):
    """The run has ended and its log is sealed: it takes no messages any more."""


class StoreVersionError(RecordingError):
    """The store or record can't be used by this release. The message says why, and what to do."""

    page = "explanation/failure-modes"


class StoreFullError(RecordingError):
    """The store has reached its limit, and holds no finished run that it could drop."""


class RedactionError(CrewbusError):
    """A redactor failed. The event reached no sink, since it may hold what must not be seen."""

    page = "howto/write-a-redactor"


class RejectedError(CrewbusError):
    """A plugin rejected a run, call, step or attempt before its work began: a budget is used up, for example.

    Plugins raise it, or a subclass, in `crewbus_scope`. It reaches the code that wanted to begin unchanged.
    """

    page = "howto/write-a-guard"


class FlushError(CrewbusError):
    """Flushing here could never return, or pending events can never be handled."""

    page = "howto/end-cleanly"


class FlushTimeoutError(FlushError, TimeoutError):
    """The flush timed out. The message names what is still pending."""


class PluginError(CrewbusError):
    """A plugin was refused. The message names it, its distribution and the reason."""

    page = "howto/load-plugins"


class TargetError(CrewbusError):
    """A TARGET or function can't be found, imported or called, or it returned what can't be used."""


class InputError(CrewbusError):
    """An argument or input is malformed. For a file the message names the line."""


class CrewbusWarning(UserWarning):
    """The root of all warnings of crewbus."""


class PluginWarning(CrewbusWarning):
    """A plugin was skipped. The message names it, its distribution and the reason."""


class UnscopedWarning(CrewbusWarning):
    """A chunk was emitted outside any run, or an event in a finished run: no stream gets it."""


class StepWarning(CrewbusWarning):
    """A step changed its arguments, and a resumed run will not see that. The message names the step."""


class GraceWarning(CrewbusWarning):
    """Work still runs after its grace period. The message names it."""
