"""Background handlers: each has a bounded queue and a thread of its own, which calls it in the order of the events."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from crewbus._util import awaitable_in, call_on, name_of, running_loop, settle
from crewbus.dispatch.async_handlers import AsyncHandlers, PendingDelivery, Report, inside_async_handler
from crewbus.events import Envelope
from crewbus.exceptions import BusClosedError, SlowConsumer
from crewbus.scopes import handling, threads

if TYPE_CHECKING:
    import asyncio

    from crewbus.scopes import Run

BOUND: Final = 1024
"""How many events may wait for a background handler."""

_IDLE: Final = 5.0  # seconds after which an idle thread ends; the next event starts another
_POLL: Final = 0.5  # seconds between two checks whether a full queue still has a thread


class _Here(threading.local):
    serving = False


_here: Final = _Here()


class _Awaiting:
    """A thread's event loop for what a handler returns to be awaited, made at first use."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, awaitable: Awaitable[Any], context: Context) -> None:
        """Await it in ``context``."""
        if self._runner is None:
            import asyncio  # loaded at first use

            self._runner = asyncio.Runner()
        self._runner.run(_awaited(awaitable), context=context)

    def close(self) -> None:
        """Close the loop, if there is one."""
        if self._runner is not None:
            self._runner.close()


async def _awaited(awaitable: Awaitable[Any]) -> None:
    await awaitable


class Worker:
    """Calls one handler with events, in the order in which they were pushed, each in its emitter's context.

    When the queue is full the emitter waits, outside every lock. Event loops and the threads of workers never wait,
    since two that feed each other would wait forever: at twice the bound their events are discarded, and reported.
    """

    def __init__(self, handler: Callable[[Envelope], Any], tasks: AsyncHandlers, report: Report) -> None:
        self.handler = handler
        self.name = name_of(handler)
        self._tasks = tasks
        self._report = report
        self._bound = BOUND
        self.reset()

    def reset(self) -> None:
        """Start again with an empty queue: after a fork, where no thread survived."""
        # Re-entrant, since a finaliser may emit while this thread holds it.
        self._changed = threading.Condition(threading.RLock())
        self._queue: deque[tuple[Envelope, Context, PendingDelivery]] = deque()
        self.thread: threading.Thread | None = None
        self._waiting: list[Callable[[], object]] = []
        self._discarded = 0
        self._timeout = _IDLE
        self._stopped = False

    # The emitter's side

    def push(self, _bus: object, _run: Run | None, envelope: Envelope) -> None:
        """Append the next event; called under the lock under which it was numbered. The emitter waits later."""
        with self._changed:
            if self._stopped:
                raise BusClosedError(f"the bus was closed before {self.name} could be called")
            if len(self._queue) >= 2 * self._bound:
                self._discarded += 1
                return
            if self.thread is None:
                self._start_thread()
            delivery = self._tasks.hold(self.name, worker=self)
            self._queue.append((envelope, copy_context(), delivery))
            full = len(self._queue) >= self._bound
            self._changed.notify_all()
        if full:
            threads.state.defer(self.wait_for_room)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"crewbus-handler:{self.name}", daemon=True)
        # In a new context: on some builds threads inherit the caller's, which would outlive the emitter's run.
        Context().run(thread.start)
        self.thread = thread

    def wait_for_room(self) -> None:
        """Block the emitter while the queue is full; never an event loop, nor the thread of a worker."""
        if running_loop() is not None or _is_handling():
            return
        with self._changed:
            while self._is_full():
                self._changed.wait(_POLL)

    async def drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """As `wait_for_room`, without blocking the loop."""
        while not _is_handling():
            with self._changed:
                if not self._is_full():
                    return
                future = loop.create_future()
                self._waiting.append(partial(call_on, loop, partial(settle, future)))
            await future

    def _is_full(self) -> bool:
        return len(self._queue) >= self._bound and not self._stopped

    # The handler's side

    def _serve(self) -> None:
        _here.serving = True
        awaiting = _Awaiting()
        try:
            while (taken := self._take()) is not None:
                self._deliver(awaiting, *taken)
                del taken  # otherwise the last event would be kept until the next
        finally:
            awaiting.close()

    def _take(self) -> tuple[Envelope, Context, PendingDelivery] | None:
        with self._changed:
            if not self._queue:
                self._changed.wait_for(lambda: bool(self._queue) or self._stopped or not self._timeout, self._timeout)
            if self._stopped or not self._queue:
                self.thread = None
                return None
            taken = self._queue.popleft()
            self._changed.notify_all()
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
        self._report_discarded(taken[0])
        return taken

    def _report_discarded(self, envelope: Envelope) -> None:
        """Report the events that were discarded since the last report."""
        with self._changed:
            count, self._discarded = self._discarded, 0
        if count:
            error = SlowConsumer(
                f"{count} events were discarded: {2 * self._bound} were queued, and their emitters could not wait"
            )
            self._report(self.handler, error, envelope)

    def _deliver(self, awaiting: _Awaiting, envelope: Envelope, context: Context, delivery: PendingDelivery) -> None:
        context.run(handling.set, delivery)
        try:
            awaitable = awaitable_in(context.run(self.handler, envelope), self.name)
            if awaitable is not None:
                awaiting.run(awaitable, context)
        except BaseException as error:  # no caller waits for it
            context.run(self._report, self.handler, error, envelope)
        finally:
            self._tasks.settle(delivery)

    def is_busy(self) -> bool:
        """Whether it has a thread."""
        with self._changed:
            return self.thread is not None

    def resume(self) -> None:
        """Expect more events again, after `finish`."""
        with self._changed:
            self._timeout = _IDLE

    def finish(self) -> None:
        """Expect no more events: once the queue is empty, the thread ends."""
        with self._changed:
            self._timeout = 0
            self._changed.notify_all()

    def stop(self) -> None:
        """Accept no more events. Those that are queued are discarded, and reported."""
        with self._changed:
            self._stopped = True
            queued, self._queue = self._queue, deque()
            self._changed.notify_all()
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
        for _, _, delivery in queued:
            self._tasks.settle(delivery)
        if queued:
            count = len(queued) + self._discarded
            error = BusClosedError(f"{count} events were discarded: the bus was closed before they were handled")
            self._report(self.handler, error, queued[-1][0])


def _is_handling() -> bool:
    """Whether the caller runs in a handler, which may be the one that must make room."""
    return _here.serving or inside_async_handler()
