"""Observations: each reports one litellm call to a bus, as a crewbus call with its attempts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from crewbus import Attempt, Bus, Call, CallError
from crewbus_litellm.answer import Answer
from crewbus_litellm.integration import contained

SOURCE: Final = "litellm"
"""The source of the emitted events."""

UNLIMITED: Final = sys.maxsize

current: Final[ContextVar[Observation | None]] = ContextVar("crewbus_litellm", default=None)
"""The litellm call that this context works on."""


class working_on:  # noqa: N801 - a context manager
    """Makes ``observation`` the current one inside the ``with``."""

    __slots__ = ("_observation", "_token")

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def __enter__(self) -> None:
        self._token = current.set(self._observation)

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):  # an abandoned coroutine may be closed in another context
            current.reset(self._token)


class Observation:
    """Reports one litellm call to a bus, through litellm's retries and fallbacks.

    A try is a request to a provider. Tries may be nested, because litellm runs fallbacks inside the call that failed;
    only the innermost ones count. Each try after the first is an attempt of the call.

    ``internal_calls`` is the number of calls of ``completion`` that litellm itself makes for this call before its first
    try. Raises what `crewbus.Call.start` raises.
    """

    def __init__(self, bus: Bus, name: str, internal_calls: int = 0) -> None:
        self._bus = bus
        self._call: Call | None = bus.call(name, kind="model", inherit=True, source=SOURCE)
        self._call.start()
        self._attempt: Attempt | None = None
        self._internal_calls = internal_calls
        self._tries = 0
        """The number of tries that have ended."""
        self._open_tries = 0
        """The number of tries in progress, nested in each other."""

    def includes(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether litellm itself makes the current call of ``completion``, as part of this call."""
        if self._call is None:
            return False
        if not self._open_tries and self._internal_calls > 0:
            self._internal_calls -= 1
            return True
        return is_internal(kwargs)

    async def drain(self) -> None:
        """Wait for slow consumers of the chunks: a loop's thread cannot wait while it emits them."""
        if self._call is not None:
            with contained("waiting for consumers"):
                await self._bus.drain()

    # Tries

    def begin_try(self) -> int:
        """Begin a try; pass the result to `end_try`."""
        self._open_tries += 1
        number = self._tries + 1
        if number > 1 and (self._attempt is None or self._attempt.number < number):
            with contained("reporting an attempt"):
                self._open_attempt(number)
        return self._tries

    def _open_attempt(self, number: int) -> None:
        if self._attempt is not None:  # it began to stream, and another provider continues from there
            self._attempt.finish()
        self._attempt = self._call.attempt(number) if self._call is not None else None
        if self._attempt is not None:
            self._attempt.start()

    def end_try(self, before: int, error: BaseException | None = None) -> None:
        """End the try for which `begin_try` returned ``before``, with its error if it failed."""
        self._open_tries -= 1
        if self._tries == before:
            self._tries += 1
        if error is not None and self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            with contained("reporting a failed attempt"):
                attempt.fail(error)

    # Output and outcome

    def chunk(self, kind: str, text: str) -> None:
        """Report a streamed chunk. Raises `crewbus.Cancelled` and `crewbus.RecordingError`."""
        scope = self._attempt or self._call
        if scope is not None:
            with contained("reporting a chunk"):
                scope.chunk(text, kind, SOURCE)

    def finish(self, answer: Answer) -> None:
        """End the call with ``answer``, unless it has ended. Raises `crewbus.RecordingError`."""
        self._end(lambda call: call.finish(answer.output, answer.usage, answer.cost))

    def fail(self, error: BaseException) -> None:
        """End the call with ``error``, unless it has ended. Raises `crewbus.RecordingError`."""
        self._end(lambda call: call.fail(error))

    def _end(self, report: Callable[[Call], None]) -> None:
        # Clearing the attributes first prevents a second end, and litellm's background tasks, which copy this context,
        # then keep nothing alive.
        call, self._call = self._call, None
        attempt, self._attempt = self._attempt, None
        if call is None:
            return
        if attempt is not None:
            attempt.finish()
        try:
            with contained("reporting the end of a call"):
                report(call)
        finally:
            if not call.ended:
                with suppress(Exception):
                    call.fail(CallError("the outcome of the call could not be reported"))


def is_internal(kwargs: Mapping[str, Any]) -> bool:
    """Whether the arguments of ``completion`` carry a mark that litellm sets on calls it makes as part of another."""
    if "_skip_mcp_handler" in kwargs:
        return True
    metadata = (kwargs.get("metadata"), kwargs.get("litellm_metadata"))
    return any(isinstance(data, Mapping) and "model_group" in data for data in metadata)  # by the Router
