"""Owned work: a call of a function that runs elsewhere, and that its owner can wait for and cancel."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from crewbus._util import (
    Latch,
    awaitable_in,
    call_on,
    is_async,
    name_of,
    reentrant_lock,
    refuse_generator,
    running_loop,
    settle,
    start_daemon,
)
from crewbus.exceptions import Cancelled, is_cancellation
from crewbus.scopes import Place, Wait, end_wait, unfinished, working

if TYPE_CHECKING:
    import asyncio


class Outcome:
    """What a call returned or raised. As a context manager it keeps what its block raises."""

    __slots__ = ("error", "result")

    def __init__(self, error: BaseException | None = None) -> None:
        self.result: Any = None
        self.error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[True]:
        if error is not None:
            self.result = None
            # Keep no frame alive that refers to the work; the traceback of a cancellation is of no use.
            trace = error.__traceback__
            self.error = error.with_traceback(trace.tb_next if trace and not is_cancellation(error) else None)
        return True


def _nothing() -> None:
    """The default of the functions that a task is handed."""


class OwnedTask:
    """One call of a function elsewhere: as a task on the running loop, or in a daemon thread of its own.

    In a thread of its own, so that calls that wait for each other cannot starve; in a daemon thread, so that none
    keeps the process alive. ``live`` contains the task from its start to its end. ``on_start`` is called in the
    thread or asyncio task before the function, which is called inside what ``around`` returns, and ``on_end`` with the
    result and the error after it; an error of ``on_end`` replaces the outcome. ``on_cancel`` is called with the reason
    when it is cancelled.
    """

    __slots__ = (
        "__weakref__", "_around", "_call", "_is_async", "_listeners", "_live", "_lock", "_on_cancel", "_on_end",
        "_on_start", "_over", "_task", "_thread", "loop", "name", "outcome", "place",
    )  # fmt: skip

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        live: set[OwnedTask],
        on_end: Callable[[Any, BaseException | None], object],
        on_start: Callable[[], object] = _nothing,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
        on_cancel: Callable[[str], object] | None = None,
    ) -> None:
        self.name = name_of(function)
        self.outcome: Outcome | None = None
        """What the function returned or raised; None until then. `over` follows once ``on_end`` has returned."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that the function runs on, if it runs on one."""
        self._call: Callable[[], Any] | None = partial(function, *args, **kwargs)
        self._is_async = is_async(function)
        self._live = live
        self._on_start = on_start
        self._around = around
        self._on_end = on_end
        self._on_cancel = on_cancel
        self._over = Latch()
        self._listeners: list[Callable[[], object]] = []
        self._lock = reentrant_lock()
        self._thread: threading.Thread | None = None
        self.place = Place()
        """Identifies what happens in its context."""
        self._task: asyncio.Task[Any] | None = None

    # Running

    def start(self, context: Context) -> None:
        """Start the call in ``context``: as an asyncio task if the function is async and a loop runs here.

        If that fails, for example because no thread can be started, the task ends with the error, which is raised.
        """
        try:
            self._live.add(self)
            self.place.outer = working.get()
            context.run(working.set, self.place)
            loop = running_loop() if self._is_async else None
            name = f"crewbus:{self.name}"
            if loop is not None:
                self.loop = loop
                self._task = loop.create_task(self._run_as_task(), name=name, context=context)
                self._task.add_done_callback(self._task_done)
            else:
                start_daemon(name, context.run, self._run)
        except BaseException as error:
            self.end_unstarted(error)
            raise

    def end_unstarted(self, error: BaseException) -> None:
        """End with ``error``, unless the call has begun: an interrupt of `start` may come once the thread runs."""
        if self._claim() is not None:
            self._end(Outcome(error))

    def _claim(self) -> Callable[[], Any] | None:
        """The call, for the one that makes it or ends the task without it; None: it was claimed before."""
        with self._lock:
            call, self._call = self._call, None
        return call

    def _run(self) -> None:
        call = self._claim()
        if call is None:
            return
        self._thread = threading.current_thread()
        with Outcome() as outcome:
            self._on_start()
            with self._around():
                outcome.result = call()
                awaitable = awaitable_in(outcome.result, self.name)
                if awaitable is not None:
                    import asyncio  # loaded at first use

                    outcome.result = asyncio.run(self._await(awaitable))
                    refuse_generator(outcome.result, self.name)
        del call
        self._end(outcome)
        del self, outcome  # break the exception/traceback/frame reference cycle: f_back leads here

    async def _await(self, awaitable: Awaitable[Any]) -> Any:
        import asyncio

        try:
            self._on_start()
        except BaseException:
            if isinstance(awaitable, Coroutine):
                awaitable.close()  # or Python warns that it was never awaited
            raise
        self.loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await awaitable

    async def _run_as_task(self) -> None:
        call = self._claim()
        if call is None:
            return
        with Outcome() as outcome:
            self._on_start()
            with self._around():
                outcome.result = await call()
                refuse_generator(outcome.result, self.name)
        del call
        self._end(outcome)
        del self, outcome  # as in `_run`

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        # A task that is cancelled before its first step never enters its body.
        if self.outcome is None:
            error = None if task.cancelled() else task.exception()
            self._end(Outcome(error or Cancelled("its task was cancelled before it began")))

    def _end(self, outcome: Outcome) -> None:
        self._call = self._task = None
        self.outcome = outcome
        try:
            self._on_end(outcome.result, outcome.error)
        except BaseException as failure:
            self.outcome = Outcome(failure)
        finally:
            self._live.discard(self)
            self.place.leave()
            with self._lock:
                self._over.open()
                listeners, self._listeners = self._listeners, []
            for notify in listeners:
                notify()

    def cancel(self, reason: str) -> None:
        """Cancel the call, which is up to ``on_cancel``."""
        if self._on_cancel is not None:
            self._on_cancel(reason)

    def after_fork(self) -> None:
        """End in a forked child, where neither the thread nor the loop exists."""
        self._call = self._task = self.loop = self._thread = None
        self._lock, self._over = reentrant_lock(), Latch()
        if self.outcome is None:
            self.outcome = Outcome(Cancelled("the process was forked"))
        self._over.open()

    # Waiting

    @property
    def over(self) -> bool:
        """Whether the function has returned, and ``on_end`` too."""
        return self._over.is_open()

    def is_here(self) -> bool:
        """Whether the caller works for this task: in its context, so that waiting for it would wait for itself."""
        return any(place is self.place for place in unfinished(working.get()))

    def give_up(self) -> None:
        """Let its owner wait for it no more."""
        self._live.discard(self)

    def wait(self, timeout: float | None) -> bool:
        """Block until the call is over and its thread has ended; returns whether it is over."""
        if self._over.is_open():
            return self._join()
        waiting = Wait(lambda: [self.place])
        try:
            waiting.begin()
            return self._over.wait(timeout) and self._join()
        finally:
            end_wait(waiting, None)

    async def wait_async(self, timeout: float | None) -> bool:
        """As `wait`, without blocking the loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def notify() -> None:
            call_on(loop, partial(settle, future))

        with self._lock:
            if self._over.is_open():
                return self._join()
            self._listeners.append(notify)
        waiting = Wait(lambda: [self.place], blocks=False)
        try:
            waiting.begin()
            await asyncio.wait([future], timeout=timeout)
        finally:
            end_wait(waiting, None)
            with self._lock:
                if notify in self._listeners:
                    self._listeners.remove(notify)
        return self._over.is_open() and self._join()

    def _join(self) -> bool:
        # The thread has nothing left to do but to end.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        return True
