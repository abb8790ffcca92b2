"""The work that a bus owns: the functions behind its streams, and what was submitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from crewbus import streams, work
from crewbus._util import reentrant_lock
from crewbus.exceptions import BusClosedError, OversizedEventError, UnserializableError
from crewbus.scopes import Deferring, Run, Stop

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from crewbus.streams import Existing, OwnedStream, StreamOptions
    from crewbus.work import OwnedTask

T = TypeVar("T")


class OwnedWork:
    """Starts work, and knows what still runs."""

    def __init__(self) -> None:
        self._streamed: set[OwnedTask] = set()
        self._submitted: set[OwnedTask] = set()
        self._kept: dict[Run, OwnedStream[Any]] = {}
        self._closed = False
        self._lock = reentrant_lock()

    def stream(
        self,
        run: Run,
        options: StreamOptions,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        give_up: Callable[[BaseException], object],
        existing: Existing | None = None,
    ) -> OwnedStream[Any]:
        """A stream of ``run``, in which ``function`` is called once the stream is consumed.

        ``existing``: the stream follows the run that has the id already, if there is one.
        """
        streams.check_streamable(function)
        task = work.OwnedTask(
            function,
            args,
            kwargs,
            live=self._streamed,
            on_start=run.work_here,
            around=run.around_work,
            on_end=partial(self._end, run, function),
            on_cancel=lambda reason: run.mark_stopped(Stop(reason)),
        )
        buffer = streams.Buffer(run.id, options.bound, options.slow)
        if existing is not None:
            return streams.AttachingStream(run, task, buffer, options.grace, give_up, existing)
        return streams.OwnedStream(run, task, buffer, options.grace, give_up)

    def keep(self, stream: OwnedStream[Any]) -> None:
        """Keep a begun stream until its run has ended, so that dropping the stream does not cancel the run."""
        self._kept[stream.run] = stream
        if stream.run.ended:
            self._kept.pop(stream.run, None)

    def _end(self, run: Run, function: Callable[..., Any], result: Any, error: BaseException | None) -> None:
        try:
            _end(run, function, result, error)
        finally:
            self._kept.pop(run, None)

    def submit(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[T]:
        """Call ``function`` in a thread of its own; see `Bus.submit`."""
        future, task = work.submission(function, args, kwargs, self._submitted)
        try:
            with Deferring(self._lock), self._lock:
                if self._closed:
                    raise BusClosedError(f"this bus is closed: {task.name} was not submitted")
                self._submitted.add(task)
            task.start(copy_context())
        except BaseException as error:
            task.end_unstarted(error)
            raise
        return future

    # Closing and forking

    def ending(self, reason: str) -> Iterator[OwnedTask]:
        """Cancel the work of the streams; yields what has to end, that of streams first."""
        yield from self.cancel_streamed(reason)
        yield from self.submitted_elsewhere()

    def cancel_streamed(self, reason: str) -> list[OwnedTask]:
        """Cancel the work of the streams, and return it, apart from what the caller works for."""
        streamed = list(self._streamed)
        for task in streamed:
            task.cancel(reason)
        return [task for task in streamed if not task.is_here()]

    def loops(self) -> set[asyncio.AbstractEventLoop | None]:
        """The event loops on which the work of streams runs."""
        return {task.loop for task in list(self._streamed) if not task.over}

    def runs_on(self, loop: object) -> bool:
        """Whether the work of a stream runs on this event loop."""
        return loop is not None and loop in self.loops()

    def runs_here(self) -> bool:
        """Whether the caller is work of this bus."""
        return any(task.is_here() for task in (*self._streamed, *self._submitted))

    def submitted_elsewhere(self) -> Iterator[OwnedTask]:
        """What was submitted and still runs, apart from the caller; work submitted meanwhile included, each once."""
        seen: set[OwnedTask] = set()
        while True:
            rest = [task for task in list(self._submitted) if task not in seen and not task.is_here()]
            if not rest:
                return
            seen.add(rest[0])
            yield rest[0]

    def close(self) -> None:
        """Take nothing more."""
        with Deferring(self._lock), self._lock:
            self._closed = True

    def after_fork(self) -> None:
        """In a forked child: neither threads nor loops survived."""
        self._lock = reentrant_lock()
        for task in self._streamed:
            task.after_fork()
        self._streamed.clear()
        self._kept.clear()
        self._submitted.clear()


def _end(run: Run, function: Callable[..., Any], result: Any, error: BaseException | None) -> None:
    """End a run as ``function`` has ended in it; a recorded one says why its result is not there, if it can't be."""
    try:
        if error is None and run.recorded and not run.ended and not run.is_stopped():
            run.written_result = _written(run, function, result)
    except BaseException as refused:  # an interrupt too: the run ends all the same
        run.end_work(refused)
        raise
    run.end_work(error)


def _written(run: Run, function: Callable[..., Any], result: Any) -> Any:
    """What the record is given for the result of ``function``: the error, where it can't be recorded."""
    try:
        return run.host.steps.written_result(run, result, function)
    except (UnserializableError, OversizedEventError) as error:
        return error.with_traceback(None)
