"""Retries of a step: how often it is tried, how long each try may take, and the wait between two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from crewbus._util import deadline, is_async, is_count, name_of, remaining, running_loop
from crewbus.exceptions import BusClosedError, FencedError, ReplayMismatch, RunIdInUseError, StepError
from crewbus.scopes import Attempt, Wait, end_wait

# A `Step`, which is made of what this module names, so it can't name it.
AnyStep = Any

Backoff = float | Callable[[int], float]
"""The seconds before the first retry, doubled before each further one; or a function of the number of the failed try,
from 1, which returns the seconds before the next."""

_FINAL: Final = (BusClosedError, FencedError, ReplayMismatch, RunIdInUseError)
"""What no other try can mend: the run can't go on here."""


class Retries:
    """Calls the function of a step, and again where it fails: each try is an attempt in the step."""

    def __init__(
        self, step: str, function: Callable[..., Any], retries: int, backoff: Backoff, timeout: float | None
    ) -> None:
        if retries and not is_count(retries):
            raise StepError(f"step {step!r}: retries= says how often it is tried again, from 0; got {retries!r}")
        if not (callable(backoff) or _is_duration(backoff)):
            raise StepError(
                f"step {step!r}: backoff= is a number of seconds, or a function of the number of the failed try that "
                f"returns one; got {backoff!r}"
            )
        if timeout is not None and not (_is_duration(timeout) and timeout > 0):
            raise StepError(f"step {step!r}: timeout= is a number of seconds above 0; got {timeout!r}")
        if timeout is not None and not is_async(function):
            raise StepError(
                f"step {step!r}: timeout= needs an async function, whose await it cancels; {name_of(function)} runs in "
                "its caller's thread, which nothing can interrupt. Make it async, or give the client that it calls a "
                "timeout"
            )
        self._step = step
        self._function = function
        self._retries = retries
        self._backoff = backoff
        self._timeout = timeout

    def call(self, step: AnyStep | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call the function until it returns, in ``step``; None: outside any run."""
        number = self._first(step)
        while True:
            try:
                with self._try(step, number):
                    return self._function(*args, **kwargs)
            except Exception as error:
                if not self._is_tried_again(number, error):
                    raise
            self._pause(step, self._seconds(number))
            number += 1

    async def acall(self, step: AnyStep | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """As `call`, of an async function."""
        number = self._first(step)
        while True:
            try:
                with self._try(step, number):
                    return await self._in_time(self._function(*args, **kwargs))
            except Exception as error:
                if not self._is_tried_again(number, error):
                    raise
            await self._apause(step, self._seconds(number))
            number += 1

    def _first(self, step: AnyStep | None) -> int:
        """The number of the next try: those that a resumed run has recorded as failed are not made again."""
        failed = step.recorded.failed_tries if step is not None and step.recorded is not None else 0
        return min(failed, self._retries) + 1

    def _try(self, step: AnyStep | None, number: int) -> AbstractContextManager[object]:
        if step is None or not self._retries:
            return nullcontext()
        step.begin_try(number)
        return Attempt(step, number)

    def _is_tried_again(self, number: int, error: Exception) -> bool:
        return number <= self._retries and not isinstance(error, _FINAL)

    async def _in_time(self, awaitable: Awaitable[Any]) -> Any:
        if self._timeout is None:
            return await awaitable
        import asyncio  # loaded: it runs this

        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await awaitable
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"step {self._step!r} took longer than {self._timeout} s") from error
            raise

    # The wait before the next try

    def _seconds(self, number: int) -> float:
        if not callable(self._backoff):
            return float(self._backoff * 2 ** (number - 1))
        seconds = self._backoff(number)
        if not _is_duration(seconds):
            raise StepError(f"step {self._step!r}: backoff= returned {seconds!r} after try {number}; it is no duration")
        return seconds

    def _pause(self, step: AnyStep | None, seconds: float) -> None:
        until, wait = deadline(seconds), self._wait(step)
        try:
            wait.begin()
            while wait.may_wait() and (left := remaining(until)):
                wait.pause(left)
        finally:
            end_wait(wait, None)
        self._check(step)

    async def _apause(self, step: AnyStep | None, seconds: float) -> None:
        if running_loop() is None:  # another kind of loop drives it
            self._pause(step, seconds)
            return
        until, wait = deadline(seconds), self._wait(step, blocks=False)
        try:
            wait.begin()
            while wait.may_wait() and (left := remaining(until)):
                await wait.apause(left)
        finally:
            end_wait(wait, None)
        self._check(step)

    @staticmethod
    def _wait(step: AnyStep | None, *, blocks: bool = True) -> Wait:
        """Wait for nothing but time, unless the run is cancelled or its bus closes."""
        return Wait(
            tuple, step.run if step is not None else None, step.host if step is not None else None, blocks=blocks
        )

    def _check(self, step: AnyStep | None) -> None:
        if step is None:
            return
        if step.run is not None:
            step.run.check()
        if step.host.closing:
            raise BusClosedError(f"this bus is closing: step {self._step!r} is not tried again")


def _is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
