"""Owned streams: a function, the run that it executes in, and the stream of that run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from crewbus import records
from crewbus._util import deadline, external_stacklevel, name_of, remaining, running_loop
from crewbus.exceptions import (
    Cancelled,
    ConsumptionError,
    GraceWarning,
    ResultTimeoutError,
    RunError,
    TargetError,
    is_cancellation,
)
from crewbus.scopes import Run, Stop, execution_id, scope_var, threads
from crewbus.streams.buffer import Buffer
from crewbus.streams.stream import Stream
from crewbus.work import OwnedTask

__all__ = ["OwnedStream"]

T = TypeVar("T")

_LEFT = "its consumer left the stream"


def check_streamable(function: Any) -> None:
    """Raise `TargetError` if `Bus.stream` can't call ``function``."""
    if not callable(function):
        raise TargetError(f"bus.stream() takes a function and its arguments; {function!r} can't be called")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TargetError(
            f"{name_of(function)} is a generator function: call bus.chunk(text) where it yields, and return"
        )


class OwnedStream(Stream, Generic[T]):
    """A stream that owns its run: the work starts when the stream is entered, iterated or asked for its result.

    If the work fails, iteration ends with the terminal frame, and `result` raises the error. If you never call
    `result`, the error is raised when the ``with`` block ends. Leaving early cancels the run and waits up to
    ``grace`` seconds for the work to end.
    """

    __slots__ = ("_asked", "_begun", "_buffer", "_discard", "_grace", "_run", "_task")

    def __init__(
        self, run: Run, task: OwnedTask, buffer: Buffer, grace: float, discard: Callable[[BaseException], object]
    ) -> None:
        super().__init__(run.id, buffer)
        self._run = run
        self._task = task
        self._buffer = buffer
        self._grace = grace
        self._discard = discard
        """Ends the run with an error while its work still runs: what the work emits later is discarded."""
        self._begun = False
        self._asked = False

    @property
    def run(self) -> Run:
        """The run that this stream owns."""
        return self._run

    @property
    def attached(self) -> bool:
        """Whether it follows a run that existed already: see `StreamOptions.attach`.

        Known once the stream was entered, iterated or asked for its result.
        """
        return False

    def _repr_html_(self) -> str:
        run = self._run
        if run.ended and run.recorded:  # before that, reading the record each time would take longer and longer
            return run._repr_html_()
        return records.stream_html(run.name, run.state, run.id, self._text_so_far().shown())

    def __del__(self) -> None:
        super().__del__()
        if getattr(self, "_begun", False) and not self._run.ended:
            self._run.mark_stopped(Stop("its stream was dropped"))

    def _begin(self) -> None:
        if self._begun or self._buffer.closed:
            return
        context = copy_context()
        self._run.start(self._buffer)
        try:
            self.run_id = self._run.id
            self._begun = True
            context.run(scope_var.set, self._run)
            self._task.start(context)
        except BaseException as error:
            self._task.end_unstarted(error)
            raise

    # The result

    def result(self, timeout: float | None = None) -> T:
        """Wait for the work, and return what it returned; frames that were not consumed are discarded.

        Raises what the work raised, `RunCancelledError` or `RunSuspendedError` if it was stopped, `ResultTimeoutError`
        after ``timeout`` seconds, and `ConsumptionError` if it would block a running loop.
        """
        self._ask()
        until = deadline(timeout)
        if running_loop() is not None:
            if self._task.outcome is None:
                raise ConsumptionError("result() would block the event loop that runs here: use 'await aresult()'")
        else:
            self._discard_frames()
            if not self._task.wait(remaining(until)):
                raise ResultTimeoutError(f"run {self.run_id} has no result after {timeout} s; it continues")
        return self._outcome()

    async def aresult(self) -> T:
        """As `result`, without blocking the loop."""
        self._ask()
        self._discard_frames()
        await self._task.wait_async(None)
        return self._outcome()

    def _ask(self) -> None:
        if self._task.outcome is None and self._task.is_here():
            raise ConsumptionError("the work of a stream can't wait for its own result")
        self._begin()
        if not self._begun:
            raise RunError(f"the stream of run {self.run_id} was closed before its work began: it has no result")

    def _discard_frames(self) -> None:
        """Consume nothing more here, so that nothing waits for it; another thread or task that iterates goes on."""
        if self._mode is None or self._buffer.consumer == execution_id():
            self._buffer.pass_all_to(self._text_so_far().add)  # not a method of this: the buffer would keep it

    def _outcome(self) -> T:
        outcome = self._task.outcome
        assert outcome is not None
        self._asked = True  # only now: a wait for it may have been cancelled, or too short
        state, stop = self._run.state, self._run.stop
        if outcome.error is None and state not in ("cancelled", "suspended"):
            return cast(T, outcome.result)
        if outcome.error is not None and state != "suspended" and not is_cancellation(outcome.error):
            raise outcome.error
        stop = stop or Stop(type(outcome.error).__name__)
        raise stop.left_error(self._run.id) from outcome.error

    # Leaving

    def close(self) -> None:
        """Leave the stream: cancel the run if it is live, and wait up to ``grace`` seconds for its work to end."""
        if self._begun and not self._task.over and running_loop() is not None:
            raise ConsumptionError("closing would block the event loop that runs here: use 'async with' or 'aclose()'")
        if self._task.is_here() or threads.state.holds_lock():  # in a finaliser
            self._leave_at_once()
        elif self._cancel_work() and not self._task.wait(self._grace):
            self._give_up()

    async def aclose(self) -> None:
        """As `close`, without blocking the loop."""
        if self._task.is_here():
            self._leave_at_once()
            return
        if not self._cancel_work():
            return
        try:
            over = await self._task.wait_async(self._grace)
        except BaseException:
            self._discard(Cancelled(_LEFT))
            raise
        if not over:
            self._give_up()

    def _cancel_work(self) -> bool:
        """Cancel the work if it still runs; returns whether it does."""
        self._buffer.close()
        if not self._begun or self._task.over:
            return False
        if not self._run.ended:
            self._task.cancel(_LEFT)
        return True

    def _leave_at_once(self) -> None:
        """Cancel the run and wait for nothing."""
        if threads.state.holds_lock():
            self._buffer.abandon()
            self._run.mark_stopped(Stop(_LEFT))
        else:
            self._cancel_work()

    def _give_up(self) -> None:
        self._discard(Cancelled(_LEFT))
        self._task.give_up()
        warnings.warn(
            f"{self._task.name} of run {self.run_id} still runs {self._grace} s after its stream was left; "
            "what it emits is discarded",
            GraceWarning,
            stacklevel=external_stacklevel(),
        )

    def _raise_unasked(self, error: BaseException | None) -> None:
        outcome = self._task.outcome
        if error is None and not self._asked and self._run.state == "failed" and outcome is not None:
            self._asked = True
            if outcome.error is not None:
                raise outcome.error

    def __enter__(self) -> Self:
        if running_loop() is not None:
            raise ConsumptionError("'with' would block the event loop that runs here: use 'async with'")
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit) and running_loop() is not None:
            self._leave_at_once()  # a generator that is dropped on a loop's thread can't await
        else:
            self.close()
        self._raise_unasked(error)

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        self._raise_unasked(error)
