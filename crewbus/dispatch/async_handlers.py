"""Async handlers: run on the emitter's loop, or on a background one; and what a flush waits for."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from crewbus._util import Wakeup, awaitable_in, call_on, deadline, generation, reentrant_lock, remaining, running_loop
from crewbus.dispatch.background_loop import BackgroundLoop
from crewbus.exceptions import BusClosedError, FlushError, FlushTimeoutError, SlowConsumer
from crewbus.scopes import Deferring, Wait, end_wait, handling, scope_var, wait_for_room, working

if TYPE_CHECKING:
    import asyncio

Report = Callable[[Any, BaseException, Any], object]

BOUND: Final = 1024
"""How many deliveries to an async handler may be pending."""

_POLL: Final = 0.25  # seconds between checks that the loops with pending deliveries still run


class HomeLoop:
    """The event loop on which a handler or callback was given; without keeping that loop alive."""

    __slots__ = ("_loop", "_queue")

    def __init__(self) -> None:
        loop = running_loop()
        self._queue: HandlerQueue | None = None
        self._loop = weakref.ref(loop) if loop is not None else None

    def get(self) -> asyncio.AbstractEventLoop | None:
        """The loop, if there was one and it still runs."""
        loop = self._loop() if self._loop is not None else None
        return loop if loop is not None and loop.is_running() else None

    @property
    def queue(self) -> HandlerQueue:
        """The pending deliveries to the handler; made at first use, since few handlers are async."""
        if self._queue is None:
            self._queue = HandlerQueue()
        return self._queue


class PendingDelivery:
    """One delivery that a flush waits for: queued or in progress."""

    __slots__ = ("born", "done", "flushing", "loop", "name", "outer", "queue", "worker")

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop | None,
        outer: PendingDelivery | None,
        worker: object = None,
        queue: HandlerQueue | None = None,
    ) -> None:
        self.born = generation.number
        self.name = name
        self.queue = queue
        """The pending deliveries to its handler, if it is a task of its own."""
        self.worker = worker
        """The worker that makes it, if it is not a task of its own."""
        self.loop = loop
        """The emitter's loop, if it is made there; None: in a thread of the bus."""
        self.outer = outer
        self.done = False
        self.flushing = False


class HandlerQueue:
    """The pending deliveries to one async handler: emitters wait for them as for a background handler."""

    __slots__ = ("_born", "_pending", "_waiting", "discarded")

    def __init__(self) -> None:
        self._born = generation.number
        self._pending: dict[PendingDelivery, None] = {}
        self._waiting: list[Callable[[], object]] = []
        self.discarded = 0
        """How many events were discarded since the last report."""

    def add(self, delivery: PendingDelivery) -> None:
        """Note that ``delivery`` is pending."""
        if self._born != generation.number:  # in a forked child, the pending deliveries are the parent's
            self._born = generation.number
            self._pending, self._waiting = {}, []
        self._pending[delivery] = None

    def remove(self, delivery: PendingDelivery) -> None:
        """Note that ``delivery`` was made, and wake who waits for room."""
        self._pending.pop(delivery, None)
        while self._waiting:  # emptied in place, since `is_full` appends without a lock
            self._waiting.pop()()

    def has(self, count: int) -> bool:
        """Whether that many deliveries are pending."""
        return len(self._pending) >= count and self._born == generation.number

    def releasers(self) -> list[object]:
        """The deliveries: when one is done, there is room."""
        return list(self._pending)

    def admits(self) -> bool:
        """Whether there is room for one delivery more. The emitter waits for it, unless it may not."""
        if self.has(BOUND) and running_loop() is None and not inside_async_handler():
            here = scope_var.get()
            wait_for_room(self, here.run if here is not None else None)
        if self.has(2 * BOUND):
            self.discarded += 1
            return False
        return True

    def is_full(self, wake: Callable[[], object]) -> bool:
        """Whether emitters wait for the handler; ``wake`` is then called once a delivery is done."""
        if wake not in self._waiting:
            self._waiting.append(wake)  # before the check, since no lock is held
        return self.has(BOUND)


def inside_async_handler() -> bool:
    """Whether the caller's context is that of an async or background handler."""
    return any(not call.done and call.born == generation.number for call in _chain(handling.get()))


class AsyncHandlers:
    """The pending deliveries of a bus, and the event loop for async handlers whose emitter has none."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.reset()

    def reset(self) -> None:
        """Forget everything: after a fork, where no thread and no loop survived."""
        # Re-entrant, since a finaliser may settle a delivery while this thread is inside.
        self._lock = reentrant_lock()
        self._listeners: set[Callable[[], object]] = set()
        self._pending: dict[PendingDelivery, None] = {}
        self._full: set[HandlerQueue] = set()
        self._references: set[asyncio.Task[None]] = set()
        self._background = BackgroundLoop()
        weakref.finalize(self, self._background.abandon).atexit = False

    @property
    def thread(self) -> threading.Thread | None:
        """The thread of the background loop, if it runs."""
        return self._background.thread

    def register(self, delivery: PendingDelivery) -> None:
        """Make flushes wait until a delivery is settled.

        Called once it is certain that it will be settled, which may have happened already.
        """
        with Deferring(self._lock), self._lock:
            if not delivery.done:
                self._pending[delivery] = None
                if delivery.queue is not None:
                    delivery.queue.add(delivery)
                    if delivery.queue.has(BOUND):
                        self._full.add(delivery.queue)

    def hold_flush(self, name: str, publish: Callable[[Callable[[], object]], object]) -> None:
        """Make flushes wait for what is named, until the function that ``publish`` is given is called."""
        delivery = PendingDelivery(name, None, handling.get())
        publish(functools.partial(self.settle, delivery))
        self.register(delivery)

    def settle(self, delivery: PendingDelivery) -> None:
        """Note that a delivery was made."""
        with Deferring(self._lock), self._lock:
            delivery.done = True
            delivery.outer = None  # a chain of handlers must not keep its whole history
            self._pending.pop(delivery, None)
            if delivery.queue is not None:
                delivery.queue.remove(delivery)
                if not delivery.queue.has(BOUND):
                    self._full.discard(delivery.queue)
            self._notify()

    def full_queues(self) -> list[HandlerQueue]:
        """The pending deliveries to each async handler for which emitters wait."""
        with Deferring(self._lock), self._lock:
            return list(self._full)

    def take_result(self, result: Any, name: str, culprit: Any, envelope: Any, home: HomeLoop) -> None:
        """Await what a handler or callback returned, if it is awaitable. Raises `TargetError` for a generator.

        It is awaited in this context, on the loop that runs here, else on ``home``, else on the background loop; a
        future, on its own loop. A fault is reported as ``culprit``'s. If `BOUND` deliveries to it are pending the
        emitter waits; at twice as many, the event of an emitter that may not wait is discarded, and reported.
        """
        awaitable = awaitable_in(result, name)
        if awaitable is not None:
            try:
                if home.queue.admits():
                    self._schedule(awaitable, name, culprit, envelope, home)
                else:
                    getattr(awaitable, "close", _nothing)()
            except BaseException:
                getattr(awaitable, "close", _nothing)()  # it will not be awaited: Python need not warn of that
                raise

    def _schedule(self, awaitable: Awaitable[Any], name: str, culprit: Any, envelope: Any, home: HomeLoop) -> None:
        if self._background.stopped:
            raise BusClosedError(f"the bus was closed before {name} could be called")
        here = running_loop()
        chosen: asyncio.AbstractEventLoop | None = getattr(awaitable, "get_loop", _nothing)() or here or home.get()
        delivery = PendingDelivery(name, chosen, handling.get(), queue=home.queue)
        context = copy_context()

        def begin(loop: asyncio.AbstractEventLoop) -> None:
            task = loop.create_task(
                self._await(awaitable, culprit, envelope, delivery), name=f"crewbus:{name}", context=context
            )
            self._references.add(task)
            # A task that is cancelled before its first step awaits nothing.
            task.add_done_callback(lambda _: getattr(awaitable, "close", _nothing)())
            task.add_done_callback(lambda task: self._settle(delivery, task, culprit, envelope))

        if chosen is None:
            self._background.call(begin)
        elif chosen is here:
            begin(here)
        else:
            chosen.call_soon_threadsafe(begin, chosen)
        self.register(delivery)

    async def _await(self, awaitable: Awaitable[Any], culprit: Any, envelope: Any, delivery: PendingDelivery) -> None:
        import asyncio  # loaded: this is one of its tasks

        handling.set(delivery)
        working.set(None)  # the emitter's work does not wait for this handler
        try:
            await awaitable
        except Exception as error:
            self._report(culprit, error, envelope)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._report(culprit, error, envelope)
            if delivery.loop is not None:
                raise
            # No caller awaits a task of the background loop, which must keep running for the others.

    def _settle(self, delivery: PendingDelivery, task: asyncio.Task[None], culprit: Any, envelope: Any) -> None:
        self._references.discard(task)
        if task.cancelled():
            import asyncio  # loaded: this is one of its tasks

            self._report(culprit, asyncio.CancelledError("cancelled before it had handled the event"), envelope)
        else:
            task.exception()  # retrieved, so that asyncio does not report it once more
        queue = delivery.queue
        if queue is not None and queue.discarded:
            count, queue.discarded = queue.discarded, 0
            why = f"{count} events were discarded: {2 * BOUND} deliveries were pending, and the emitters could not wait"
            self._report(culprit, SlowConsumer(why), envelope)
        self.settle(delivery)

    def _notify(self) -> None:
        for listener in list(self._listeners):
            listener()

    def loops(self) -> set[asyncio.AbstractEventLoop | None]:
        """The loops on which deliveries are pending."""
        return {delivery.loop for delivery in self._snapshot()}

    def has_pending(self) -> bool:
        """Whether a delivery is pending."""
        return bool(self._pending)

    def refuse_to_block(self, action: str) -> None:
        """Raise `FlushError` where ``action`` would wait for itself: on a loop that has to make a pending delivery."""
        here = running_loop()
        if here is None:
            return
        of_this_loop = None if self._background.runs_here() else here
        pending = [call for call in self._snapshot() if call.loop is of_this_loop and call.worker is None]
        if pending:
            raise FlushError(
                f"{action}() would block the loop that has to run {_names(pending)}: use 'await bus.a{action}()' there"
            )

    def wait(self, timeout: float | None) -> None:
        """Block until the deliveries that are pending now are made.

        Raises `FlushError` for a loop that does not run, and `FlushTimeoutError`.
        """
        pending, until, changed = self._snapshot(), deadline(timeout), Wakeup()
        if self._background.has_calls and not self._background.start():
            if running_loop() is not None:
                raise FlushError(f"no thread can start to run {_names(pending)}: use 'await bus.aflush()' there")
            self._background.run_here(timeout)
        self._listen(changed.set)
        waiting = Wait(lambda: list(pending))
        try:
            waiting.begin()
            while pending := [call for call in pending if not call.done]:
                self._refuse_idle_loops(pending)
                changed.wait(_patience(until, pending))
        finally:
            end_wait(waiting, None)
            self._listeners.discard(changed.set)

    async def await_all(self, timeout: float | None) -> None:
        """As `wait`, without blocking the loop; inside an async handler it waits for all the others.

        Handlers that wait for each other do not deadlock: a delivery that itself waits here is not waited for.
        """
        import asyncio

        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def listener() -> None:
            call_on(loop, changed.set)

        inside = list(_chain(handling.get()))
        # What a worker has queued behind the delivery that is waiting here comes after it.
        behind = {call.worker for call in inside if call.worker is not None}
        pending = [call for call in self._snapshot() if call not in inside and call.worker not in behind]
        until = deadline(timeout)
        if self._background.has_calls and not self._background.start():
            self._background.make_calls()
        self._mark(inside, True)
        self._listen(listener)
        waiting = Wait(lambda: list(pending), blocks=False)
        try:
            waiting.begin()
            while pending := [call for call in pending if not (call.done or (inside and call.flushing))]:
                self._refuse_idle_loops(pending)
                patience = _patience(until, pending)
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), patience)
                changed.clear()
        finally:
            end_wait(waiting, None)
            self._listeners.discard(listener)
            self._mark(inside, False)

    def _listen(self, listener: Callable[[], object]) -> None:
        with Deferring(self._lock), self._lock:
            self._listeners.add(listener)

    def _mark(self, calls: list[PendingDelivery], flushing: bool) -> None:
        with Deferring(self._lock), self._lock:
            for call in calls:
                call.flushing = flushing
            self._notify()

    def _snapshot(self) -> list[PendingDelivery]:
        with Deferring(self._lock), self._lock:
            return list(self._pending)

    def _refuse_idle_loops(self, pending: list[PendingDelivery]) -> None:
        idle = [call for call in pending if call.loop is not None and not call.loop.is_running()]
        if idle:
            with Deferring(self._lock), self._lock:
                for call in idle:
                    self._pending.pop(call, None)
            if all(call.loop is not None and call.loop.is_closed() for call in idle):
                raise FlushError(f"the event loop that had to run {_names(idle)} is closed: they are lost")
            raise FlushError(
                f"the event loop that has to run {_names(idle)} does not run, "
                "and flushes wait for them no longer: they are called if it runs again"
            )

    def stop(self, timeout: float) -> bool:
        """End the background loop, cancelling what still runs on it; returns whether its thread ends in time."""
        return self._background.stop(timeout)


def _nothing() -> None:
    """For an awaitable without the method that is looked for."""


def _chain(call: PendingDelivery | None) -> Iterator[PendingDelivery]:
    while call is not None:
        yield call
        call = call.outer


def _patience(until: float | None, pending: list[PendingDelivery]) -> float:
    """How long to wait before the next look; raises `FlushTimeoutError` once ``until`` (monotonic) is past."""
    rest = remaining(until)
    if rest == 0:
        raise FlushTimeoutError(f"the time is up, and these handlers still run: {_names(pending)}")
    return _POLL if rest is None else min(_POLL, rest)


def _names(pending: list[PendingDelivery]) -> str:
    return ", ".join(sorted({call.name for call in pending}))
