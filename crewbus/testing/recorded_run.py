"""Runs recorded in memory, for a test to inspect and to resume as after a crash."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, TypeVar, overload

from crewbus import Bus, Cancelled, ConsumptionError, Envelope, MemoryStore, Record, Run, Suspended
from crewbus._util import is_async, name_of, running_loop
from crewbus.testing.replay import copy_unfinished

P = ParamSpec("P")
T = TypeVar("T")


class RecordedRun(Generic[T]):
    """A recorded run and its outcome.

    An error of the function is kept, and raised by `result`. If a test neither reads `result` or `error` nor resumes
    the run, the error is raised when the test ends, so that it is never lost.
    """

    def __init__(self, bus: Bus, run_id: str) -> None:
        self.run_id = run_id
        """The id of the run."""
        self._bus = bus
        self._result: Any = None
        self._error: BaseException | None = None
        self._was_read = False

    def __repr__(self) -> str:
        outcome = f"returned {self._result!r}" if self._error is None else f"raised {self._error!r}"
        return f"<recorded run {self.run_id}: {outcome}>"

    @property
    def result(self) -> T:
        """What the function returned; raises what it raised."""
        self._was_read = True
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[no-any-return]

    @property
    def error(self) -> BaseException | None:
        """What the function raised, an Exception, `Cancelled` or `Suspended`; None if it returned."""
        self._was_read = True
        return self._error

    @property
    def record(self) -> Record:
        """The record of the run."""
        return self._bus.record_of(self.run_id)

    @property
    def envelopes(self) -> list[Envelope]:
        """The envelopes of the record, in order."""
        return list(self.record)

    @property
    def events(self) -> list[Any]:
        """The events of the record, in order."""
        return [envelope.event for envelope in self.record]

    @overload
    def resume(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RecordedRun[T]: ...
    @overload
    def resume(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> RecordedRun[T]: ...
    def resume(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RecordedRun[Any]:
        """Resume the run as after a crash: call ``function`` in it, and return the run with the new outcome.

        Recorded steps are not executed again. A finished run is resumed as if its process had been killed just before
        its end.
        """
        return RecordedRun[Any](self._bus, self.run_id).perform(self._resumed(), function, args, kwargs)

    async def aresume(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RecordedRun[T]:
        """Like `resume`, for an async function, on the running event loop."""
        return await RecordedRun[T](self._bus, self.run_id).perform_async(self._resumed(), function, args, kwargs)

    def _resumed(self) -> Run:
        self._was_read = True
        store = self._bus.store
        if self._bus.records.info(self.run_id).state == "finished":
            events = list(store.read(self.run_id))
            store.drop(self.run_id)
            copy_unfinished(events, self.run_id, store)
        return self._bus.resume(self.run_id)

    def perform(
        self, run: Run, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> RecordedRun[T]:
        """Call the function in ``run``, and keep its outcome."""
        if is_async(function):
            if running_loop() is not None:
                raise ConsumptionError(
                    f"{name_of(function)} is async, and an event loop runs here: "
                    "use 'await recorded_run.acall(...)', 'await done.aresume(...)'"
                )
            return asyncio.run(self.perform_async(run, function, args, kwargs))
        with self._keeping(run), run:
            self._result = function(*args, **kwargs)
        return self

    async def perform_async(
        self,
        run: Run,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> RecordedRun[T]:
        """Like `perform`, on the running event loop; awaits the function's return value if it is awaitable."""
        with self._keeping(run):
            async with run:
                made = function(*args, **kwargs)
                self._result = await made if inspect.isawaitable(made) else made
        return self

    @contextmanager
    def _keeping(self, run: Run) -> Iterator[None]:
        try:
            yield
        except (Exception, Cancelled, Suspended) as error:
            if run.state == "new":  # the run could not start; the function was not called
                raise
            self._error = error

    def raise_unread(self) -> None:
        """Raise the error if the test did not read it."""
        if not self._was_read and self._error is not None:
            raise self._error


class RunRecorder:
    """Calls functions in runs that are recorded in memory on ``bus``: the fixture `recorded_run`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._made: list[RecordedRun[Any]] = []
        bus.recording.use_store(MemoryStore())

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RecordedRun[T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> RecordedRun[T]: ...
    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RecordedRun[Any]:
        """Call ``function``, sync or async, in a recorded run of its own."""
        run = self._run(function)
        return self._kept(run).perform(run, function, args, kwargs)

    async def acall(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RecordedRun[T]:
        """Like calling this, for an async function, on the running event loop."""
        run = self._run(function)
        return await self._kept(run).perform_async(run, function, args, kwargs)

    def _run(self, function: Callable[..., Any]) -> Run:
        return self._bus.run(name_of(function), record=True)

    def _kept(self, run: Run) -> RecordedRun[Any]:
        self._made.append(RecordedRun[Any](self._bus, run.id))
        return self._made[-1]

    def close(self) -> None:
        """Drop the runs; raises the first error that the test did not read."""
        made, self._made = self._made, []
        for done in made:
            done.raise_unread()
