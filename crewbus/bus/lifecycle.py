"""The life of a bus: flushing, closing, the process's fork and its exit."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from crewbus._util import (
    Latch,
    call_all,
    deadline,
    external_stacklevel,
    in_thread,
    reentrant_lock,
    remaining,
    reported_once,
    running_loop,
)
from crewbus.bus.suspension import Suspension
from crewbus.dispatch import AsyncHandlers, inside_async_handler
from crewbus.exceptions import CrewbusError, FlushError, GraceWarning
from crewbus.scopes import end_waits, execution_id, threads

if TYPE_CHECKING:
    import asyncio

    from crewbus.bus.live_runs import LiveRuns
    from crewbus.bus.membership import Membership
    from crewbus.bus.owned_work import OwnedWork
    from crewbus.bus.release import PluginRelease
    from crewbus.dispatch import Dispatcher, Subscriptions
    from crewbus.durability import Gate
    from crewbus.scopes import Host
    from crewbus.streams import Buffer

CLOSE_TIMEOUT: Final = 10.0
"""How many seconds closing waits by default for what is still running."""
_SHORT: Final = 0.1  # seconds


class Lifecycle:
    """Flushes and closes a bus, in the order in which its parts depend on each other.

    For tools that look for leaks it also reports what a bus keeps.
    """

    def __init__(
        self,
        bus: Dispatcher,
        host: Host,
        subscriptions: Subscriptions,
        async_handlers: AsyncHandlers,
        gate: Gate,
        live: LiveRuns,
        work: OwnedWork,
        membership: Membership,
        release: PluginRelease,
        closed: Callable[[], object],
    ) -> None:
        self._bus = bus
        self._host = host
        self._subscriptions = subscriptions
        self._async_handlers = async_handlers
        self._gate = gate
        self._live = live
        self._suspension = Suspension(host, live)
        self._work = work
        self._membership = membership
        self._release = release
        self._on_closed = closed
        self._reset()

    def _reset(self) -> None:
        self._lock = reentrant_lock()
        self._closer: list[object] | None = None
        """Holds the thread or task that closes the bus, until its call ends: one that was interrupted leaves the rest
        to the next call."""
        self._steps: list[Callable[[], object]] | None = None
        """What is left to do of `shut`; None: all of it."""
        self._is_closed = Latch()

    # Flushing

    def flush(self, timeout: float | None) -> None:
        """See `Bus.flush`."""
        self._refuse_to_block("flush")
        until = deadline(timeout)
        self._subscriptions.serve_here()
        self._async_handlers.wait(remaining(until))
        self._release.flush(remaining(until))

    async def aflush(self, timeout: float | None) -> None:
        """See `Bus.aflush`."""
        until = deadline(timeout)
        self._subscriptions.serve_here()
        await self._async_handlers.await_all(remaining(until))
        await in_thread(partial(self._release.flush, remaining(until)))

    def _refuse_to_block(self, action: str) -> None:
        if threads.state.delivering or threads.state.holds_lock() or inside_async_handler():
            raise FlushError(f"{action}() inside a handler would wait for that handler: use 'await bus.a{action}()'")
        self._async_handlers.refuse_to_block(action)

    # Closing

    def close(self, timeout: float, suspend: bool = False) -> None:
        """See `Bus.close`."""
        if self._is_shut():
            return
        self._refuse_to_block("close")
        if suspend:
            self._suspension.refuse_to_block()
        if self._work.runs_on(running_loop()):
            raise FlushError("close() would block the loop that its streams' work runs on: use 'await bus.aclose()'")
        until, late, me = deadline(timeout), list[str](), [execution_id()]
        try:
            if not self._begin(me):
                # Another thread closes it, unless this one does, in a hook, or the other one waits for this one.
                if self._closer != me and not self._work.runs_here():
                    self._is_closed.wait(timeout)
                return
            try:
                if suspend:
                    self._suspension.begin()
                for task in self._work.ending("the bus is closed"):
                    late += [] if task.wait(remaining(until)) else [task.name]
                if suspend:
                    self._suspension.wait(until)
                    self._suspension.end(late)
                self.flush(remaining(until))
                while self._async_handlers.has_pending():  # what the handlers emitted in turn
                    self.flush(remaining(until))
            except BaseException as error:
                with reported_once(error):
                    self.shut(late, timeout, until)
                raise
            self.shut(late, timeout, until)
        finally:
            if self._closer is me:
                self._closer = None

    async def aclose(self, timeout: float, suspend: bool = False) -> None:
        """See `Bus.aclose`."""
        if inside_async_handler():
            raise FlushError("aclose() inside a handler would wait for that handler: close the bus elsewhere")
        if self._is_shut():
            return
        until, late, me = deadline(timeout), list[str](), [execution_id()]
        try:
            if not self._begin(me):
                if self._closer != me:
                    await in_thread(partial(self._is_closed.wait, timeout))
                return
            try:
                if suspend:
                    self._suspension.begin()
                for task in self._work.ending("the bus is closed"):
                    late += [] if await task.wait_async(remaining(until)) else [task.name]
                if suspend:
                    await in_thread(partial(self._suspension.wait, until))
                    await in_thread(partial(self._suspension.end, late))
                await self.aflush(remaining(until))
                while self._async_handlers.has_pending():
                    await self.aflush(remaining(until))
            except BaseException as error:
                with reported_once(error):
                    await self._ashut(late, timeout, until)
                raise
            await self._ashut(late, timeout, until)
        finally:
            if self._closer is me:
                self._closer = None

    async def _ashut(self, late: list[str], timeout: float, until: float | None) -> None:
        try:
            self._accept_no_more()
            if self._async_handlers.thread is not None:  # stopping waits for it
                await in_thread(partial(self._stop_async_handlers, late, until))
        finally:
            self.shut(late, timeout, until)

    def _is_shut(self) -> bool:
        """Whether nothing is left to do."""
        return self._steps == []

    def _begin(self, me: list[object]) -> bool:
        """Whether no other call closes the bus, so that the caller's does."""
        with self._lock:
            first = self._closer is None or _is_over(self._closer[0])
            if first:
                self._closer = me
                self._host.closing = True
        if first:
            end_waits(host=self._host)
        return first

    def _accept_no_more(self) -> None:
        self._bus.closed = True
        call_all([self._subscriptions.close, self._work.close, self._live.close])

    def shut(self, late: list[str], timeout: float, until: float | None = None) -> None:
        """Accept nothing more and release everything; ``late``: the work that still runs, for a warning.

        What an interrupt keeps from being done is left to the next call.
        """
        if self._steps is None:
            self._steps = [
                self._accept_no_more,
                partial(self._stop_async_handlers, late, until),
                self._subscriptions.release,
                self._membership.close,
                partial(self._release.close, until),
                self._on_closed,
                self._is_closed.open,
                self._gate.close,
            ]
        call_all([partial(self._shut, step) for step in list(self._steps)])
        if late:  # at the end, since a filter may make it an error
            warnings.warn(
                f"after {timeout} s still running: {', '.join(late)}", GraceWarning, stacklevel=external_stacklevel()
            )

    def _stop_async_handlers(self, late: list[str], until: float | None) -> None:
        if not self._async_handlers.stop(_rest(until)):
            late.append("async handlers")

    def _shut(self, step: Callable[[], object]) -> None:
        try:
            step()
        except CrewbusError:
            self._done(step)
            raise
        self._done(step)

    def _done(self, step: Callable[[], object]) -> None:
        if self._steps is not None:
            self._steps = [other for other in self._steps if other is not step]

    # What the bus keeps

    def has_pending(self) -> bool:
        """Whether a delivery to a handler is pending."""
        return self._async_handlers.has_pending()

    def loops(self) -> set[asyncio.AbstractEventLoop]:
        """The event loops on which work of the bus waits to continue."""
        return {loop for loop in (*self._work.loops(), *self._async_handlers.loops()) if loop is not None}

    def threads(self) -> set[threading.Thread]:
        """The threads that the bus keeps while it is open: those of its background loop and handlers, and
        the one that looks for requests."""
        kept = {
            self._async_handlers.thread,
            self._live.requests.thread,
            *(worker.thread for worker in self._subscriptions.workers()),
        }
        return {thread for thread in kept if thread is not None}

    def is_watching(self, buffer: Buffer) -> bool:
        """Whether the bus will attach ``buffer`` to a run that has not started."""
        return any(one is buffer for one in self._live.awaited())

    # Forking

    def after_fork(self) -> None:
        """In a forked child: new locks, empty queues, finished runs; only the parent writes what it had begun."""
        self._reset()
        self._host.outside.orphan(self._host.outside.lane)
        self._async_handlers.reset()
        self._subscriptions.after_fork()
        self._live.after_fork()
        self._work.after_fork()
        self._gate.after_fork()
        self._release.after_fork()
        self._membership.after_fork()


def _is_over(closer: object) -> bool:
    """Whether it is a task that has ended: one that was dropped where it awaited runs no line of its own any more."""
    if not isinstance(closer, weakref.ref):
        return False
    task = closer()
    return task is None or bool(task.done())


def _rest(until: float | None) -> float:
    """The seconds until ``until`` (monotonic), but long enough for a thread that has nothing left to do to end."""
    return max(_SHORT, remaining(until) or 0.0)
