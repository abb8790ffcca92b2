"""A store whose process dies at a chosen write, or that refuses some, and strands of work that take turns by a seed."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from helpers import TIMEOUT

import crewbus
from crewbus.stores import LogInfo, Store, StoredEvent


class CrashError(BaseException):
    """The process died."""


class MortalStore(Store):
    """What one process has of a store: after ``fuse`` writes it dies, and what it had not flushed may be lost.

    If ``refused`` is given, it lives, and the store refuses so many writes. ``then``: is called after the write
    ``after``, before anything else is written.
    """

    def __init__(
        self,
        inner: Store,
        fuse: int | None = None,
        refused: int = 0,
        after: int | None = None,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        self.inner = inner
        self.fuse = None if refused else fuse
        self._after, self._then = after, then
        self._refusals = range(fuse or 0, (fuse or 0) + refused)
        self._asked = 0
        self.dead = False
        self.writes = 0
        self._begun: list[str] = []
        self._pending: list[tuple[str, int, StoredEvent]] = []
        self._lock = threading.RLock()

    def _count(self) -> None:
        self._asked += 1
        if self._asked - 1 in self._refusals:
            raise crewbus.RecordingError("the store refuses it")
        self.dead = self.dead or self.writes == self.fuse
        if self.dead:
            raise CrashError
        self.writes += 1

    def survive(self, lost: int) -> None:
        """After the death: have all but the last ``lost`` events on disk, in logs that nobody holds."""
        self.dead = True
        kept = max(0, len(self._pending) - lost)
        if not kept:
            self._begun = []
        self._pending = self._pending[:kept]
        self._deliver()
        for root_id in self.inner.roots():
            self.inner.revoke(root_id)

    def _deliver(self) -> None:
        with self._lock:
            begun, self._begun = self._begun, []
            for root_id in begun:
                self.inner.begin(root_id)
            pending, self._pending = self._pending, []
            for root_id, epoch, event in pending:
                self.inner.append(root_id, epoch, event)

    # Writing

    def begin(self, root_id: str) -> int:
        self._begun.append(root_id)
        return 1

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        with self._lock:
            self._count()
            self._pending.append((root_id, epoch, event))
            is_due = self.writes == self._after
        if is_due:
            self._then()

    def flush(self, timeout: float | None = None) -> None:
        if not self.dead:
            self._deliver()
            self.inner.flush(timeout)

    def finish(self, root_id: str, epoch: int) -> None:
        if not self.dead:
            self._deliver()
            self.inner.finish(root_id, epoch)

    def acquire(self, root_id: str) -> int:
        return self.inner.acquire(root_id)

    def release(self, root_id: str, epoch: int, until: float | None = None) -> None:
        if not self.dead:
            self._deliver()
            self.inner.release(root_id, epoch, until)

    def revoke(self, root_id: str) -> None:
        self.inner.revoke(root_id)

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        self._deliver()
        self.inner.fork(root_id, at, fork_id, events)

    def drop(self, root_id: str) -> None:
        self.inner.drop(root_id)

    # Reading: a process sees what it has not flushed yet

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        if root_id not in self._begun:
            yield from self.inner.read(root_id, after)
        yield from [event for root, _, event in self._pending if root == root_id and event.seq > after]

    def event(self, root_id: str, seq: int) -> StoredEvent:
        return next((e for root, _, e in self._pending if root == root_id and e.seq == seq), None) or self.inner.event(
            root_id, seq
        )

    def info(self, root_id: str) -> LogInfo:
        last = [event.seq for root, _, event in self._pending if root == root_id][-1:]
        if root_id in self._begun:
            return LogInfo(root_id, 1, last[0] if last else -1, sealed=False, alive=not self.dead)
        info = self.inner.info(root_id)
        info = info._replace(alive=info.alive and not self.dead)
        return info._replace(last=last[0]) if last else info

    def root_of(self, run_id: str) -> str | None:
        if run_id in self._begun:
            return run_id
        return next((root for root, _, e in self._pending if e.run_id == run_id), None) or self.inner.root_of(run_id)

    def roots(self) -> list[str]:
        return self.inner.roots()

    def lineage(self, root_id: str) -> list[str]:
        return self.inner.lineage(root_id) if root_id not in self._begun else []


# Taking turns

Pause: TypeAlias = Callable[[], Awaitable[None]]


async def no_pause() -> None:
    """Alone, nobody waits for a turn."""


pause: Final[ContextVar[Pause]] = ContextVar("pause", default=no_pause)
"""What to await where another strand may have its turn."""


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("it waits")


class ThreadStrand:
    """Work in a thread with its caller's context, which goes on from one pause to the next when it has its turn."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._work = work
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = crewbus.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._go.acquire()
        pause.set(self._pause)
        try:
            if not self._killed:
                self.result = drive(self._work())
        except BaseException as error:
            self.error = error
        self.done = True
        self._stopped.release()

    async def _pause(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise CrashError

    async def turn(self) -> None:
        """Let it go on to its next pause, or its end."""
        self._go.release()
        assert self._stopped.acquire(timeout=TIMEOUT), "a strand hangs"

    async def kill(self) -> None:
        """Have it end."""
        if not self.done:
            self._killed = True
            await self.turn()
        self._thread.join(TIMEOUT)


class TaskStrand:
    """As `ThreadStrand`, in an asyncio task."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._work = work
        self._go, self._stopped = asyncio.Event(), asyncio.Event()
        self._killed = self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), context=contextvars.copy_context())

    async def _run(self) -> None:
        await self._go.wait()
        pause.set(self._pause)
        try:
            if not self._killed:
                self.result = await self._work()
        except BaseException as error:
            self.error = error
        self.done = True
        self._stopped.set()

    async def _pause(self) -> None:
        self._go.clear()
        self._stopped.set()
        await self._go.wait()
        if self._killed:
            raise CrashError

    async def turn(self) -> None:
        """Let it go on to its next pause, or its end."""
        if self.done:  # it was interrupted where it waited for its turn
            return
        self._stopped.clear()
        self._go.set()
        await self._stopped.wait()

    async def kill(self) -> None:
        """Have it end."""
        self._killed = True
        while not self.done:  # twice, if the caller was interrupted in its turn
            await self.turn()
        await self._task


async def interleave(
    first: Callable[[], Coroutine[Any, Any, Any]],
    others: Sequence[Callable[[], Coroutine[Any, Any, Any]]],
    make: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any],
    rng: random.Random,
    handled: tuple[type[Exception], ...],
) -> list[Any]:
    """Do ``first`` here and the others in strands of their own, in turns; the results.

    Once all have ended, raises the first error that is none of those ``handled``, or else the first one; what is not an
    Exception at once.
    """
    outer = pause.get()
    strands = [make(work) for work in others]
    going: list[Any] = [None, *strands]  # None: this thread or task
    errors: dict[int, Exception] = {}

    async def until_here() -> None:
        while going:
            chosen = going[rng.randrange(len(going))]
            if chosen is None:
                return
            await chosen.turn()
            if chosen.done:
                going.remove(chosen)
                if isinstance(chosen.error, Exception):
                    errors[strands.index(chosen) + 1] = chosen.error
                elif chosen.error is not None:
                    raise chosen.error
            await outer()

    async def pause_here() -> None:
        await outer()
        await until_here()

    result: Any = None
    try:
        await until_here()
        token = pause.set(pause_here)
        try:
            result = await first()
        except Exception as error:
            errors[0] = error
        finally:
            pause.reset(token)
        going.remove(None)
        await until_here()
    finally:
        for strand in strands:
            await strand.kill()
    if errors:
        raise min(errors.items(), key=lambda one: (isinstance(one[1], handled), one[0]))[1]
    return [result, *(strand.result for strand in strands)]
