"""Observations: one call of litellm's each, told to a bus as one crewbus call with its attempts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from crewbus import Attempt, Bus, Call, CallError
from crewbus_litellm._answer import Answer
from crewbus_litellm._integration import contained

SOURCE: Final = "litellm"
"""The source of what is emitted here."""

ANY: Final = sys.maxsize

current: Final[ContextVar[Observation | None]] = ContextVar("crewbus_litellm", default=None)
"""The call that litellm is at work on in this context."""


class at_work:  # noqa: N801 - reads as what it says
    """For as long as its ``with`` lasts, litellm is at work on this call."""

    __slots__ = ("_observation", "_token")

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def __enter__(self) -> None:
        self._token = current.set(self._observation)

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):  # a coroutine that is thrown away may be closed in another context
            current.reset(self._token)


class Observation:
    """Tells a bus of one call of litellm's, and follows it through litellm's retries and fallbacks.

    A try is what reaches a provider. Tries may stand in each other, since litellm looks for fallbacks within what it
    does for a call; only the innermost count. From the second on each is an attempt of the call.

    ``passes``: how many of the calls of ``completion`` that litellm makes next, before it tries, are the same call.
    Raises what `crewbus.Call.start` raises.
    """

    def __init__(self, bus: Bus, name: str, passes: int = 0) -> None:
        self._call: Call | None = bus.call(name, inherit=True, source=SOURCE)
        self._call.start()
        self._attempt: Attempt | None = None
        self._passes = passes
        self._tries = 0
        """How many tries have ended."""
        self._under_way = 0
        """How many tries, one inside the other, are under way."""

    def includes(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a call of ``completion`` made at this moment is litellm's own, for this very call."""
        if self._call is None:
            return False
        if not self._under_way and self._passes > 0:
            self._passes -= 1
            return True
        return is_internal(kwargs)

    # Tries

    def begin_try(self) -> int:
        """Begin a try; what it returns is for `end_try`."""
        self._under_way += 1
        number = self._tries + 1
        if number > 1 and (self._attempt is None or self._attempt.number < number):
            with contained("telling of an attempt"):
                self._open_attempt(number)
        return self._tries

    def _open_attempt(self, number: int) -> None:
        if self._attempt is not None:  # it had begun to stream, and another provider goes on from there
            self._attempt.finish()
        self._attempt = self._call.attempt(number) if self._call is not None else None
        if self._attempt is not None:
            self._attempt.start()

    def end_try(self, before: int, error: BaseException | None = None) -> None:
        """End the try for which `begin_try` returned ``before``, with the error that ended it, if one did."""
        self._under_way -= 1
        if self._tries == before:
            self._tries += 1
        if error is not None and self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            with contained("telling of a failed attempt"):
                attempt.fail(error)

    # What comes of it

    def chunk(self, kind: str, text: str) -> None:
        """Tell of a streamed piece. Raises `crewbus.Cancelled` and `crewbus.RecordingError`."""
        here = self._attempt or self._call
        if here is not None:
            with contained("telling of a chunk"):
                here.chunk(text, kind, SOURCE)

    def finish(self, answer: Answer) -> None:
        """End the call: it gave ``answer``. Ending it again does nothing. Raises `crewbus.RecordingError`."""
        self._end(lambda call: call.finish(answer.output, answer.usage, answer.cost))

    def fail(self, error: BaseException) -> None:
        """End the call with ``error``. Ending it again does nothing. Raises `crewbus.RecordingError`."""
        self._end(lambda call: call.fail(error))

    def _end(self, tell: Callable[[Call], None]) -> None:
        # What is gone from here can't be ended twice, and nothing stays with those of litellm's
        # tasks that carry this context on.
        call, self._call = self._call, None
        attempt, self._attempt = self._attempt, None
        if call is None:
            return
        if attempt is not None:
            attempt.finish()
        try:
            with contained("telling of a call's end"):
                tell(call)
        finally:
            if not call.ended:
                with suppress(Exception):
                    call.fail(CallError("what the call gave could not be told"))


def is_internal(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of ``completion`` bears a mark that litellm gives its own: those that are part of another."""
    if "_skip_mcp_handler" in kwargs:
        return True
    about = (kwargs.get("metadata"), kwargs.get("litellm_metadata"))
    return any(isinstance(data, Mapping) and "model_group" in data for data in about)  # by the Router
