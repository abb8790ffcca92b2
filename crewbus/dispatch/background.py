"""Background handlers: each has a bounded queue and a thread of its own, which calls it in the order of the events."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from crewbus._util import Wakeup, awaitable_in, name_of, reentrant_lock, running_loop, start_daemon
from crewbus.dispatch.async_handlers import AsyncHandlers, PendingDelivery, Report, inside_async_handler
from crewbus.dispatch.faults import is_reported
from crewbus.events import Envelope
from crewbus.exceptions import BusClosedError, SlowConsumer
from crewbus.scopes import Deferring, can_wait, handling, threads, wait_for_room, working

if TYPE_CHECKING:
    import asyncio

    from crewbus.scopes import Run

BOUND: Final = 1024
"""How many events may wait for a background handler."""

_IDLE: Final = 5.0  # seconds after which an idle thread ends; the next event starts another


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

    When the queue is full the emitter waits, outside every lock. A handler does not, since two that feed each other
    would wait for each other. At twice the bound, the events of emitters that may not wait are discarded, and reported.
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
        self._lock = reentrant_lock()
        self._queue: deque[tuple[Envelope, Context, PendingDelivery]] = deque()
        self._wakeup = Wakeup()
        """Wakes the thread."""
        weakref.finalize(self, self._wakeup.set).atexit = False
        self.thread: threading.Thread | None = None
        self._handled: PendingDelivery | None = None
        """The delivery that its thread makes."""
        self._waiting: list[Callable[[], object]] = []
        """Wake the emitters that wait for room."""
        self._waiting_emitters = 0
        """How many emitters wait, or are about to: the event of each does not count towards twice the bound."""
        self._discarded = 0
        self._timeout = _IDLE
        self._stopped = False

    # The emitter's side

    def push(self, _bus: object, run: Run | None, envelope: Envelope) -> None:
        """Append the next event; called under the lock under which it was numbered. The emitter waits later."""
        if is_reported(self.handler):
            return
        with self._lock:  # which that lock makes a finaliser respect
            if self._stopped:
                raise BusClosedError(f"the bus was closed before {self.name} could be called")
            waits = len(self._queue) + 1 >= self._bound and not is_handling() and can_wait(self, run)
            if not waits and len(self._queue) - self._waiting_emitters >= 2 * self._bound:
                self._discarded += 1
                return
            delivery = PendingDelivery(self.name, None, handling.get(), self)
            self._queue.append((envelope, copy_context(), delivery))
            self._tasks.register(delivery)
            if self.thread is None:
                self._start_thread()
            self._waiting_emitters += waits
        self._wakeup.set()
        if waits:
            threads.state.defer(partial(self._wait_for_room, run))

    def _start_thread(self) -> bool:
        """Start a thread that empties the queue; returns whether it could. Called under the lock."""
        try:
            self.thread = start_daemon(f"crewbus-handler:{self.name}", _serve, weakref.ref(self), self._wakeup)
        except RuntimeError:  # the system has no thread left, or the interpreter is ending
            return False
        return True

    def serve_here(self) -> None:
        """Empty the queue in the caller's thread, if no other can start: what is queued is not lost."""
        with Deferring(self._lock), self._lock:
            if self.thread is not None or not self._queue or self._start_thread():
                return
        _serve(weakref.ref(self), self._wakeup, patient=False)

    def _wait_for_room(self, run: Run | None) -> None:
        """Block the emitter while the queue is full, if it may wait."""
        try:
            wait_for_room(self, run)
        finally:
            with Deferring(self._lock), self._lock:
                self._waiting_emitters -= 1

    def releasers(self) -> list[object]:
        """The delivery that its thread makes: when that is done, there is room."""
        return [self._handled]

    def is_full(self, wake: Callable[[], object]) -> bool:
        """Whether emitters wait for the handler; ``wake`` is then called once it has taken an event."""
        if running_loop() is None:
            self.serve_here()
        with Deferring(self._lock), self._lock:
            is_full = len(self._queue) >= self._bound and not self._stopped
            if is_full and wake not in self._waiting:
                self._waiting.append(wake)
            return is_full

    def _wake_waiters(self) -> None:
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    # The handler's side

    def claim(self) -> bool:
        """Whether the caller's thread may empty the queue, since no other does.

        An interrupt may have kept the emitter that started this thread from noting it.
        """
        with Deferring(self._lock), self._lock:
            if self.thread is None:
                self.thread = threading.current_thread()
            return self.thread is threading.current_thread()

    def release(self) -> None:
        """The thread ends: the next event starts another."""
        with Deferring(self._lock), self._lock:
            if self.thread is threading.current_thread():
                self.thread = None

    @property
    def idle_time(self) -> float:
        """How many seconds its thread waits for the next event before it ends."""
        return self._timeout

    def deliver_next(self, awaiting: _Awaiting) -> bool:
        """Call the handler with the next event; returns whether there was one."""
        with Deferring(self._lock), self._lock:
            if self._stopped or not self._queue:
                return False
            taken = self._queue.popleft()
            self._wake_waiters()
        self._report_discarded(taken[0])
        self._deliver(awaiting, *taken)
        return True

    def retire(self, woken: bool) -> bool:
        """Let the thread end if it has nothing left to do; returns whether it ends."""
        with Deferring(self._lock), self._lock:
            if not self._stopped and (self._queue or (woken and self._timeout)):
                return False
            self.thread = None
            return True

    def _report_discarded(self, envelope: Envelope) -> None:
        """Report the events that were discarded since the last report."""
        with Deferring(self._lock), self._lock:
            count, self._discarded = self._discarded, 0
        if count:
            error = SlowConsumer(
                f"{count} events were discarded: {2 * self._bound} were queued, and their emitters could not wait"
            )
            self._report(self.handler, error, envelope)

    def _deliver(self, awaiting: _Awaiting, envelope: Envelope, context: Context, delivery: PendingDelivery) -> None:
        context.run(handling.set, delivery)
        context.run(working.set, None)  # the emitter's work does not wait for this handler
        self._handled = delivery
        try:
            awaitable = awaitable_in(context.run(self.handler, envelope), self.name)
            if awaitable is not None:
                awaiting.run(awaitable, context)
        except BaseException as error:  # no caller waits for it
            context.run(self._report, self.handler, error, envelope)
        finally:
            self._handled = None
            self._tasks.settle(delivery)

    def is_busy(self) -> bool:
        """Whether it has a thread, or events."""
        return self.thread is not None or bool(self._queue)

    def resume(self) -> None:
        """Expect more events again, after `finish`."""
        with Deferring(self._lock), self._lock:
            self._timeout = _IDLE

    def finish(self) -> None:
        """Expect no more events: once the queue is empty, the thread ends."""
        with Deferring(self._lock), self._lock:
            self._timeout = 0
        self._wakeup.set()

    def stop(self) -> None:
        """Accept no more events. Those that are queued are discarded, and reported."""
        with Deferring(self._lock), self._lock:
            self._stopped = True
            queued = list(self._queue)
            self._wake_waiters()
        self._wakeup.set()
        for _, _, delivery in queued:
            self._tasks.settle(delivery)
        if queued:
            count = len(queued) + self._discarded
            error = BusClosedError(f"{count} events were discarded: the bus was closed before they were handled")
            self._report(self.handler, error, queued[-1][0])
        self._queue.clear()  # only now, since another call finishes one that was interrupted


def _serve(ref: weakref.ref[Worker], wakeup: Wakeup, patient: bool = True) -> None:
    """Call a worker's handler until there is nothing to do. While idle, it does not keep the worker alive."""
    worker = ref()
    if worker is None or not worker.claim():
        return
    state, awaiting = threads.state, _Awaiting()
    outer = state.serving
    try:
        state.serving = True
        while True:
            while worker.deliver_next(awaiting):
                pass
            idle_time, worker = worker.idle_time if patient else 0, None
            woken = wakeup.wait(idle_time)
            worker = ref()
            if worker is None or worker.retire(woken and patient):
                return
    finally:
        state.serving = outer
        worker = ref()
        if worker is not None:
            worker.release()  # for an interrupt or another BaseException
        del worker
        awaiting.close()


def is_handling() -> bool:
    """Whether the caller runs in a handler, which may be the one that must make room."""
    return threads.state.serving or inside_async_handler()
