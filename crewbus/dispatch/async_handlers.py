"""Async handlers: run on the emitter's loop, or on a background one; and what a flush waits for."""

from __future__ import annotations

import functools
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from crewbus._util import awaitable_in, call_on, deadline, external_stacklevel, remaining, running_loop
from crewbus.exceptions import BusClosedError, FlushError, FlushTimeoutError, GraceWarning
from crewbus.scopes import handling

if TYPE_CHECKING:
    import asyncio

Report = Callable[[Any, BaseException, Any], object]

_POLL: Final = 0.25  # seconds between checks that the loops with pending deliveries still run


class HomeLoop:
    """The event loop on which a handler or callback was given; without keeping that loop alive."""

    __slots__ = ("_loop",)

    def __init__(self) -> None:
        loop = running_loop()
        self._loop = weakref.ref(loop) if loop is not None else None

    def get(self) -> asyncio.AbstractEventLoop | None:
        """The loop, if there was one and it still runs."""
        loop = self._loop() if self._loop is not None else None
        return loop if loop is not None and loop.is_running() else None


class PendingDelivery:
    """One delivery that a flush waits for: queued or in progress."""

    __slots__ = ("done", "flushing", "loop", "name", "outer", "worker")

    def __init__(
        self, name: str, loop: asyncio.AbstractEventLoop | None, outer: PendingDelivery | None, worker: object = None
    ) -> None:
        self.name = name
        self.worker = worker
        """The worker that makes it, if it is not a task of its own."""
        self.loop = loop
        """Where it is made; None: in a thread."""
        self.outer = outer
        self.done = False
        self.flushing = False


def inside_async_handler() -> bool:
    """Whether the caller's context is that of an async or background handler."""
    return any(not call.done for call in _chain(handling.get()))


class AsyncHandlers:
    """The pending deliveries of a bus, and the event loop for async handlers whose emitter has none."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.reset()

    def reset(self) -> None:
        """Forget everything: after a fork, where no thread and no loop survived."""
        self._changed = threading.Condition(threading.RLock())
        self._listeners: set[Callable[[], object]] = set()
        self._pending: dict[PendingDelivery, None] = {}
        self._references: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False
        self.thread: threading.Thread | None = None

    def hold(self, name: str, loop: asyncio.AbstractEventLoop | None = None, worker: object = None) -> PendingDelivery:
        """Register a delivery to the handler ``name``: a flush waits until it is settled. Raises `BusClosedError`."""
        delivery = PendingDelivery(name, loop, handling.get(), worker)
        with self._changed:
            self._refuse_if_stopped(name)
            self._pending[delivery] = None
        return delivery

    def hold_flush(self, name: str) -> Callable[[], object]:
        """Make flushes wait for what is named, until the returned function is called."""
        try:
            held = self.hold(name)
        except BusClosedError:  # nothing flushes any more
            return lambda: None
        return functools.partial(self.settle, held)

    def _refuse_if_stopped(self, name: str) -> None:
        if self._stopped:
            raise BusClosedError(f"the bus was closed before {name} could be called")

    def settle(self, delivery: PendingDelivery) -> None:
        """Note that a delivery was made."""
        with self._changed:
            delivery.done = True
            delivery.outer = None  # a chain of handlers must not keep its whole history
            self._pending.pop(delivery, None)
            self._notify()

    def take_result(self, result: Any, name: str, culprit: Any, envelope: Any, home: HomeLoop) -> None:
        """Await what a handler or callback returned, if it is awaitable. Raises `TargetError` for a generator.

        It is awaited in this context, on the loop that runs here, else on ``home``, else on the background loop; a
        future, on its own loop. A fault is reported as ``culprit``'s.
        """
        awaitable = awaitable_in(result, name)
        if awaitable is not None:
            try:
                self._schedule(awaitable, name, culprit, envelope, home)
            except BaseException:
                getattr(awaitable, "close", _nothing)()  # it will not be awaited: Python need not warn of that
                raise

    def _schedule(self, awaitable: Awaitable[Any], name: str, culprit: Any, envelope: Any, home: HomeLoop) -> None:
        here = running_loop()
        loop = getattr(awaitable, "get_loop", _nothing)() or here or home.get() or self._background(name)
        delivery = self.hold(name, loop)
        context = copy_context()

        def begin() -> None:
            task = loop.create_task(
                self._await(awaitable, culprit, envelope, delivery), name=f"crewbus:{name}", context=context
            )
            self._references.add(task)
            # A task that is cancelled before its first step awaits nothing.
            task.add_done_callback(lambda _: getattr(awaitable, "close", _nothing)())
            task.add_done_callback(lambda task: self._settle(delivery, task, culprit, envelope))

        try:
            if loop is here:
                begin()
            else:
                loop.call_soon_threadsafe(begin)
        except BaseException:
            with self._changed:
                self._pending.pop(delivery, None)
            raise

    async def _await(self, awaitable: Awaitable[Any], culprit: Any, envelope: Any, delivery: PendingDelivery) -> None:
        import asyncio  # loaded: this is one of its tasks

        handling.set(delivery)
        try:
            await awaitable
        except Exception as error:
            self._report(culprit, error, envelope)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._report(culprit, error, envelope)
            if delivery.loop is not self._loop:
                raise
            # No caller awaits a task of the background loop, which must keep running for the others.

    def _settle(self, delivery: PendingDelivery, task: asyncio.Task[None], culprit: Any, envelope: Any) -> None:
        self._references.discard(task)
        if task.cancelled():
            import asyncio  # loaded: this is one of its tasks

            self._report(culprit, asyncio.CancelledError("cancelled before it had handled the event"), envelope)
        else:
            task.exception()  # retrieved, so that asyncio does not report it once more
        self.settle(delivery)

    def _notify(self) -> None:
        self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def _background(self, name: str) -> asyncio.AbstractEventLoop:
        with self._changed:
            self._refuse_if_stopped(name)
            if self._loop is None:
                import asyncio  # loaded at first use: a bus without async handlers never needs it

                self._loop = asyncio.new_event_loop()
                self.thread = threading.Thread(
                    target=self._serve, args=(self._loop,), name="crewbus-background", daemon=True
                )
                self.thread.start()
            return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()

    def loops(self) -> set[asyncio.AbstractEventLoop | None]:
        """The loops on which deliveries are pending."""
        return {delivery.loop for delivery in self._snapshot()}

    def has_pending(self) -> bool:
        """Whether a delivery is pending."""
        return bool(self._pending)

    def refuse_to_block(self, action: str) -> None:
        """Raise `FlushError` where ``action`` would wait for itself: on a loop that has to make a pending delivery."""
        here = running_loop()
        pending = [call for call in self._snapshot() if call.loop is here]
        if here is not None and pending:
            raise FlushError(
                f"{action}() would block the loop that has to run {_names(pending)}: use 'await bus.a{action}()' there"
            )

    def wait(self, timeout: float | None) -> None:
        """Block until the deliveries that are pending now are made.

        Raises `FlushError` for a loop that has stopped, and `FlushTimeoutError`.
        """
        pending = self._snapshot()
        until = deadline(timeout)
        with self._changed:
            while pending := [call for call in pending if not call.done]:
                self._refuse_dead_loops(pending)
                self._changed.wait(_patience(until, pending))

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
        self._mark(inside, True)
        try:
            with self._changed:
                self._listeners.add(listener)
            while pending := [call for call in pending if not (call.done or (inside and call.flushing))]:
                self._refuse_dead_loops(pending)
                patience = _patience(until, pending)
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), patience)
                changed.clear()
        finally:
            with self._changed:
                self._listeners.discard(listener)
            self._mark(inside, False)

    def _mark(self, calls: list[PendingDelivery], flushing: bool) -> None:
        with self._changed:
            for call in calls:
                call.flushing = flushing
            self._notify()

    def _snapshot(self) -> list[PendingDelivery]:
        with self._changed:
            return list(self._pending)

    def _refuse_dead_loops(self, pending: list[PendingDelivery]) -> None:
        dead = [
            call
            for call in pending
            if call.loop is not None and not call.loop.is_running() and call.loop is not self._loop
        ]
        if dead:
            with self._changed:
                for call in dead:
                    self._pending.pop(call, None)
            raise FlushError(f"the event loop that had to run {_names(dead)} has stopped: they are lost")

    def stop(self, timeout: float) -> None:
        """End the background loop and its thread, cancelling what still runs on it."""
        with self._changed:
            loop, thread = self._loop, self.thread
            self._loop = self.thread = None
            self._stopped = True
        if loop is None or thread is None:
            return
        import asyncio

        def finish() -> None:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            asyncio.ensure_future(asyncio.wait(tasks) if tasks else asyncio.sleep(0), loop=loop).add_done_callback(
                lambda _: loop.stop()
            )

        loop.call_soon_threadsafe(finish)
        if thread is not threading.current_thread():
            thread.join(timeout)
            if thread.is_alive():
                warnings.warn(
                    f"async handlers still run after {timeout} s", GraceWarning, stacklevel=external_stacklevel()
                )


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
