"""Failures of steps: as the record has them, and as a resumed run raises them again."""

from __future__ import annotations

from crewbus import serialization
from crewbus._util import name_of
from crewbus.events import StepFailed
from crewbus.exceptions import StepFailedError, text_of

Raises = tuple[type[Exception], ...]
"""The exceptions that a step names in its ``raises=``."""


def describe(step: str, error: Exception, raises: Raises = ()) -> StepFailed:
    """The event that says that the step of this name failed with ``error``, from which `rebuild` makes it again."""
    failed = StepFailed(step, name_of(type(error)), text_of(error))
    written = serialization.write_exception(error, raises)
    if written is not None:
        failed.value, failed.type, failed.version = written
    return failed


def rebuild(failed: StepFailed, raises: Raises = ()) -> Exception:
    """The exception that a step failed with: as it was if its type is known here, else a `StepFailedError`.

    Raises `DecodeError` if the record is not valid for the type, or has a newer version of it.
    """
    if failed.type is not None:
        written = serialization.Written(failed.value, failed.type, failed.version)
        error = serialization.read_exception(written, raises)
        if error is not None:
            return error
    return StepFailedError(failed.name, failed.error, failed.message)
