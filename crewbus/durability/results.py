"""The results of runs: as their terminal events record them, and as any process reads them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crewbus import serialization
from crewbus.durability.recorder import Recorder
from crewbus.durability.step_function import return_annotation
from crewbus.events import Envelope, RunCancelled, RunFailed, RunFinished
from crewbus.exceptions import DecodeError, RunCancelledError, RunFailedError, UnserializableError, text_of

if TYPE_CHECKING:
    from crewbus.scopes import Run


class Results:
    """Writes and reads the results of a bus's runs."""

    def __init__(self, recording: Recorder) -> None:
        self._recording = recording

    def written(self, run: Run, value: Any, function: Callable[..., Any] | None = None) -> serialization.Written:
        """Encode what a recorded run results in. See `StepPerformer.written_result`.

        Raises `UnserializableError`, and `OversizedEventError` if the terminal event would be too large.
        """
        annotation = return_annotation(function) if function is not None else Any
        described = f"run {run.name!r}" if run.name else f"run {run.id}"
        written = self._recording.codec().write(value, annotation, described)
        end = self._recording.as_recorded(RunFinished(*written))  # later changes of the value do not change the record
        return serialization.Written(end.result, end.type, end.version)

    def complete(self, run: Run, end: Any, error: BaseException | None) -> None:
        """Have the terminal event of a recorded run hold what `outcome` needs."""
        if isinstance(end, RunFinished) and isinstance(run.written_result, Exception):
            end.refused = text_of(run.written_result)
        elif isinstance(end, RunFinished) and run.written_result is not None:
            end.result, end.type, end.version = run.written_result
        elif isinstance(end, RunFailed) and isinstance(error, Exception):
            written = serialization.write_exception(error)
            if written is not None:
                end.value, end.type, end.version = written

    def outcome(self, run_id: str, end: Envelope, returns: Any) -> Any:
        """The result of a run with this terminal event, decoded as ``returns`` where its type is not registered.

        Raises the failure of the run, `RunCancelledError` if it was cancelled, `UnserializableError` if its result
        could not be recorded, and `DecodeError`.
        """
        event = end.event
        if isinstance(event, RunCancelled):
            raise RunCancelledError(f"run {run_id} was cancelled: {event.reason}")
        if isinstance(event, RunFailed):
            raise _failure(run_id, event)
        if event.refused:
            raise UnserializableError(f"run {run_id} has finished, and its result was not recorded: {event.refused}")
        written = serialization.Written(event.result, event.type, event.version)
        if returns is Any and written.annotation is not None:
            raise DecodeError(
                f"the result of run {run_id} was written as its function is annotated, {written.annotation}: pass that "
                "type as returns=, or register it with crewbus.register_entity() where the run is recorded"
            )
        return self._recording.codec().read(written, returns)


def _failure(run_id: str, failed: RunFailed) -> Exception:
    """The exception that a run failed with: as it was if its type is known here, else a `RunFailedError`."""
    if failed.type is not None:
        error = serialization.read_exception(serialization.Written(failed.value, failed.type, failed.version))
        if error is not None:
            return error
    return RunFailedError(run_id, failed.error, failed.message)
