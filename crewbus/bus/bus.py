"""The bus: the façade over runs, streams, recording and plugins."""

from __future__ import annotations

import atexit
import os
import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from crewbus import hookspecs
from crewbus._util.deadlines import deadline, remaining
from crewbus._util.loops import running_loop
from crewbus._util.process import generation
from crewbus._util.warn import external_stacklevel
from crewbus.bus.membership import Joining
from crewbus.dispatch.async_handlers import inside_async_handler
from crewbus.dispatch.faults import inside_delivery, recursed_too_deep
from crewbus.exceptions import (
    FlushError,
    GraceWarning,
    PluginError,
    text_of,
)
from crewbus.plugins.flatten import flatten
from crewbus.plugins.loading import Loader, PluginSelection
from crewbus.plugins.manager import PluginManager
from crewbus.plugins.requirements import Requirement, requirements
from crewbus.stores.users import store_refs
from crewbus.streams import waker
from crewbus.streams.buffer import Buffer
from crewbus.work.owned import OwnedTask

if TYPE_CHECKING:
    pass

__all__ = ["Bus"]

T = TypeVar("T")

DEFAULT_PLUGINS: Final[Mapping[str, str]] = {
    "memory_store": "crewbus.builtin.memory_store",
    "run_scope": "crewbus.builtin.run_scope:RunScope",
    "checkpoint_recorder": "crewbus.builtin.checkpoint_recorder:CheckpointRecorder",
    "callback_isolation": "crewbus.builtin.callback_isolation:CallbackIsolation",
}
"""The plugins that a bus loads unless they are blocked or replaced, as ``module`` or ``module:attribute``."""

CLOSE_TIMEOUT: Final = 10.0
"""How many seconds closing waits for what is still running, unless told otherwise."""


live_buses: Final[weakref.WeakSet[Bus]] = weakref.WeakSet()
"""The buses that are not closed: what a fork and the process's exit concern."""


class Bus(Joining):
    """An event bus: carries what runs emit to handlers, plugins and streams. Make as many as you need.

    ``plugins``: objects, modules or classes with hookimpls, pairs ``(name, plugin)``, or names: of a built-in plugin,
    else of an installed one, else of a module to import, as ``module`` or ``module:attribute``. What is given here
    takes the place of a built-in or installed plugin of its name. ``entry_points``: whether to load the plugins that
    installed distributions name in the entry point group ``crewbus``, and those that the environment variable
    ``CREWBUS_PLUGINS`` names. ``blocked``: names of plugins to leave out, built-in ones too, or a mapping from them to
    the reason to show; None: those that ``CREWBUS_BLOCK`` names, except what ``plugins`` brings. The variables hold
    names with commas between them; what is left out is not imported. ``strict``: whether a plugin that can't be
    loaded is an error (`PluginError`) or is skipped with a warning. ``requires``: plugins that must be loaded, in
    which versions, as in ``"sqlite>=0.1"``; otherwise `PluginError` says which is not there, and why. ``unscoped``:
    what to do about a chunk emitted outside any run, or an event in a finished one, which no stream can get: "warn"
    (and deliver it to handlers), "ignore" (deliver it in silence) or "raise". What raises leaves nothing behind.
    """

    def __init__(
        self,
        plugins: Iterable[Any] = (),
        *,
        entry_points: bool = True,
        blocked: Iterable[str] | None = None,
        requires: Iterable[str] = (),
        strict: bool = False,
        unscoped: str = "warn",
    ) -> None:
        super().__init__(unscoped)
        self._closer: int | None = None
        self._gone = threading.Event()
        self.plugins = PluginManager(
            hookspecs,
            report=self._report,
            propagates=recursed_too_deep,
            changed=self._reflatten,
            joining=self._configure,
            leaving=self._retire,
        )
        wishes = PluginSelection.of(plugins, entry_points, blocked, strict)
        try:
            self._load(wishes, requirements(requires))
        except BaseException:
            self._abandon()
            raise
        live_buses.add(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._runs)} live runs"
        return f"<Bus {state}, plugins: {', '.join(name for name, _ in self.plugins.list_name_plugin())}>"

    # Plugins

    def _load(self, wishes: PluginSelection, required: tuple[Requirement, ...]) -> None:
        loader = Loader(self.plugins, DEFAULT_PLUGINS, wishes)
        loader.load()
        loader.check(required)  # before any plugin begins to serve, and opens what it needs
        for name, member in self.plugins.list_name_plugin():
            if member is not None and self.plugins.get_plugin(name) is member and id(member) not in self._serving:
                try:
                    self.plugins.join(name, member)
                except PluginError as error:
                    self.plugins.status.skip(name, text_of(error), wishes.strict, error)
        loader.check(required)

    def _abandon(self) -> None:
        """Release what a constructor that fails had taken."""
        for name, member in self.plugins.list_name_plugin():
            if member is not None and id(member) not in self._serving:
                self.plugins.unregister(name=name)
        try:
            self.close()
        except Exception:  # where it would block: what made the constructor fail is what is raised
            self._shut([], CLOSE_TIMEOUT)

    # Flushing and closing

    def flush(self, timeout: float | None = None) -> None:
        """Return when all that was emitted before is handled and written.

        Raises `FlushError` inside a handler, and on a loop that owes async handlers: ``await bus.aflush()``
        there; `FlushTimeoutError` after ``timeout`` seconds; and what a recorder could not write.
        """
        self._refuse_to_block("flush")
        until = deadline(timeout)
        self._tasks.wait(timeout)
        self._call_all("crewbus_flush", timeout=remaining(until))

    async def aflush(self, timeout: float | None = None) -> None:
        """As `flush`, without blocking the loop; inside an async handler it waits for all the others."""
        import asyncio

        until = deadline(timeout)
        await self._tasks.await_all(timeout)
        await asyncio.to_thread(self._call_all, "crewbus_flush", timeout=remaining(until))

    def _refuse_to_block(self, action: str) -> None:
        if inside_delivery() or inside_async_handler():
            raise FlushError(f"{action}() inside a handler would wait for that handler: use 'await bus.a{action}()'")
        self._tasks.refuse_to_block(action)

    def _call_all(self, hook: str, **values: Any) -> None:
        """Call each implementation of a hook; the first error is raised when all have run."""
        failure: BaseException | None = None
        for function in flatten(getattr(self.plugins.hook, hook), self.plugins.watched):
            try:
                function(self, *values.values())
            except BaseException as error:
                failure = failure or error
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or it, its traceback and this frame would hold each other

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Cancel the runs that streams own, wait for what was submitted, flush, let the plugins go, take nothing more.

        Closing again does nothing. What still runs after ``timeout`` seconds is named in a `GraceWarning`.
        Raises `FlushError` where `flush` does, and then leaves the bus open.
        """
        if self.closed:
            return
        self._refuse_to_block("close")
        loop = running_loop()
        if loop is not None and any(not work.over and work.loop is loop for work in self._works):
            raise FlushError("close() would block the loop that its streams' work runs on: use 'await bus.aclose()'")
        if not self._begin_closing():
            # Another thread is at it, unless this one is, in a hook, or the other one waits for this one.
            if self._closer != threading.get_ident() and not any(job.is_here() for job in list(self._jobs)):
                self._gone.wait(timeout)
            return
        until, late = deadline(timeout), []
        overdue: list[OwnedTask] = []
        try:
            late = [work.name for work in self._interrupt() if not work.wait(remaining(until))]
            while (job := self._next_job(overdue)) is not None:  # a job may submit others
                if not job.wait(remaining(until)):
                    overdue.append(job)
            late += [job.name for job in overdue]
            self.flush(remaining(until))
            while self._tasks.owe():  # what the handlers emitted in turn
                self.flush(remaining(until))
        finally:
            self._shut(late, timeout)

    async def aclose(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """As `close`, without blocking the loop."""
        import asyncio

        if inside_async_handler():
            raise FlushError("aclose() inside a handler would wait for that handler: close the bus elsewhere")
        if self.closed:
            return
        if not self._begin_closing():
            await asyncio.to_thread(self._gone.wait, timeout)
            return
        until, late = deadline(timeout), []
        overdue: list[OwnedTask] = []
        try:
            late = [work.name for work in self._interrupt() if not await work.wait_async(remaining(until))]
            while (job := self._next_job(overdue)) is not None:
                if not await job.wait_async(remaining(until)):
                    overdue.append(job)
            late += [job.name for job in overdue]
            await self.aflush(remaining(until))
            while self._tasks.owe():
                await self.aflush(remaining(until))
        finally:
            self._shut(late, timeout)

    def _begin_closing(self) -> bool:
        """Whether the caller is the first to close, and so the one to do it."""
        with self._registry:
            first = self._closer is None
            if first:
                self._closer = threading.get_ident()
            return first

    def _next_job(self, overdue: list[OwnedTask]) -> OwnedTask | None:
        """A job to wait for, that is not this thread's own, nor has been waited for in vain."""
        with self._registry:
            return next((job for job in self._jobs if not job.is_here() and job not in overdue), None)

    def _interrupt(self) -> list[OwnedTask]:
        with self._registry:
            works = list(self._works)
        for work in works:
            work.cancel("the bus is closed")
        return works

    def _shut(self, late: list[str], timeout: float) -> None:
        with self._registry:
            self.closed = True
            self._forget_plans()
            buffers = [buffer() for waiting in self._awaited.values() for buffer in waiting]
            buffers += [sink for run in self._runs.values() for sink in run.sinks if isinstance(sink, Buffer)]
            self._awaited.clear()
        for buffer in buffers:
            if buffer is not None:
                buffer.close()
        try:
            self._tasks.stop(timeout)
            for worker in self._workers():
                worker.stop()
            self._serving.clear()
            self._tell("crewbus_close")
        finally:
            live_buses.discard(self)
            self._gone.set()
            if self._store is not None:
                store_refs.release(self._store)
        if late:
            warnings.warn(
                f"after {timeout} s still running: {', '.join(late)}", GraceWarning, stacklevel=external_stacklevel()
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # Forking

    def _forked(self) -> None:
        """In a forked child: new locks, empty queues, finished runs; what the parent began is the parent's to write."""
        self._registry = threading.RLock()
        self._opening = threading.RLock()
        self._outside = threading.RLock()
        self._closer, self._gone = None, threading.Event()
        self._tasks.reset()
        for worker in self._workers():
            worker.reset()
        self.plugins.after_fork()
        for run in self._runs.values():
            run.orphan()
        for work in self._works:
            work.after_fork()
        self._runs.clear()
        self._awaited.clear()
        self._works.clear()
        self._jobs.clear()
        if self._store is not None:
            self._store.after_fork()
        self._tell("crewbus_fork")


def _close_all() -> None:
    for bus in list(live_buses):
        try:
            bus.close()
        except Exception as error:
            warnings.warn(f"closing {bus!r} at exit: {text_of(error)}", GraceWarning, stacklevel=1)


def _forked_all() -> None:
    generation.advance()
    store_refs.after_fork()
    waker.after_fork()
    for bus in list(live_buses):
        bus._forked()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked_all)
