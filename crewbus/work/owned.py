"""The work behind a stream that owns its run: a function in a thread of its own, or as a task."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from crewbus._util.callables import is_async, name_of
from crewbus._util.loops import call_on, running_loop, settle
from crewbus.exceptions import Cancelled, TargetError
from crewbus.scopes.current import scope
from crewbus.scopes.run import Run

if TYPE_CHECKING:
    import asyncio


class Work:
    """One call of a function inside a run of its own, which it ends."""

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], run: Run
    ) -> None:
        if not callable(function):
            raise TargetError(f"bus.stream() takes a function and its arguments; {function!r} can't be called")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TargetError(
                f"{name_of(function)} is a generator function: call bus.chunk(text) where it yields, and return"
            )
        self.name = name_of(function)
        self.run = run
        self.result: Any = None
        self.error: BaseException | None = None
        self.settled = False
        """Whether result or error are there; the terminal event comes after."""
        self._call: Callable[[], Any] | None = lambda: function(*args, **kwargs)
        self._is_async = is_async(function)
        self._over = threading.Event()
        self._listeners: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[Any] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def begin(self, context: Context) -> None:
        """Start the work: as a task where it is async and a loop runs here, else in a thread.

        ``context`` is the work's own. What keeps it from starting ends the run, and is raised.
        """
        try:
            self._start(context)
        except BaseException as error:  # no thread can be had, say
            self._conclude(None, error)
            raise

    def _start(self, context: Context) -> None:
        loop = running_loop()
        context.run(scope.set, self.run)
        self.run.bus._employ(self)
        if self._is_async and loop is not None:
            self._follow(loop, loop.create_task(self._perform(), name=f"crewbus:{self.name}", context=context))
            return
        self._thread = threading.Thread(
            target=context.run, args=(self._serve,), name=f"crewbus:{self.name}", daemon=True
        )
        self._thread.start()

    def _follow(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        self.loop, self._task = loop, task

        def ended(task: asyncio.Task[Any]) -> None:
            # A task that is cancelled before its first step never enters its body.
            error = None if task.cancelled() else task.exception()
            if not self.settled:
                self._conclude(None, error or Cancelled("its task was cancelled before it began"))

        task.add_done_callback(ended)

    async def _perform(self) -> None:
        assert self._call is not None
        result, error = None, None
        self.run.settle_in()
        try:
            result = await self._call()
        except BaseException as raised:
            error = trimmed(raised)
        self._conclude(result, error)
        del error

    def _serve(self) -> None:
        assert self._call is not None
        result, error = None, None
        self.run.settle_in()
        try:
            result = self._call()
            if inspect.isawaitable(result):
                result = self._run_to_end(result)
        except BaseException as raised:
            error = trimmed(raised)
        self._conclude(result, error)
        del error

    def _run_to_end(self, awaitable: Awaitable[Any]) -> Any:
        import asyncio  # loaded at first use

        async def main() -> Any:
            self.run.settle_in()
            self.loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            if self.run.cancel_reason is not None:
                raise asyncio.CancelledError
            return await awaitable

        return asyncio.run(main())

    def _conclude(self, result: Any, error: BaseException | None) -> None:
        self._call = self._task = None
        self.result, self.error, self.settled = result, error, True
        try:
            self.run._exit(error)
        except BaseException as failure:
            self.result, self.error = None, failure
        finally:
            self.run.bus._release(self)
            with self._lock:
                self._over.set()
                listeners, self._listeners = self._listeners, []
            for notify in listeners:
                notify()

    def interrupt(self) -> None:
        """Cancel the task, where the work is one; a thread notices at its next crewbus call."""
        loop, task = self.loop, self._task
        if loop is not None and task is not None:
            call_on(loop, task.cancel)

    def forked(self) -> None:
        """Be over: in a forked child, where neither the thread nor the loop lives on."""
        self._call = self._task = self.loop = self._thread = None
        self._lock, self._over = threading.Lock(), threading.Event()
        if not self.settled:
            self.error, self.settled = Cancelled("the process was forked"), True
        self._over.set()

    @property
    def over(self) -> bool:
        """Whether the function has returned and its run has ended."""
        return self._over.is_set()

    def wait(self, timeout: float | None) -> bool:
        """Block until it is over; returns whether it is."""
        return self._over.wait(timeout) and self._join()

    async def wait_async(self, timeout: float | None) -> bool:
        """As `wait`, without blocking the loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def notify() -> None:
            call_on(loop, partial(settle, future))

        with self._lock:
            if self._over.is_set():
                return self._join()
            self._listeners.append(notify)
        try:
            await asyncio.wait([future], timeout=timeout)
        finally:
            with self._lock:
                if notify in self._listeners:
                    self._listeners.remove(notify)
        return self._over.is_set() and self._join()

    def _join(self) -> bool:
        # The thread has nothing left to do but to end; after this it is gone.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        return True


def trimmed(error: BaseException) -> BaseException:
    """``error`` without what would keep alive, for as long as somebody holds it, what the run had emitted.

    The frame that caught it is cut off, since it refers to the work; of a cancellation nobody reads the traceback.
    """
    trace = error.__traceback__
    return error.with_traceback(trace.tb_next if trace is not None and isinstance(error, Exception) else None)
