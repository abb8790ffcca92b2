"""Runs: one execution each, in a tree. What a tree shares: the lock, the numbers, the gate of recording."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import Token
from itertools import count
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from crewbus._context import running_loop, scope
from crewbus.events import Chunk, Envelope, RunCancelled, RunEnded, RunFailed, RunFinished, RunStarted
from crewbus.exceptions import Cancelled, RecordingError, RunCancelledError, RunError, text_of

if TYPE_CHECKING:
    from crewbus._bus import Bus

__all__ = ["Run", "Sink"]

_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


class Sink(Protocol):
    """What a run's frames are pushed into: one consumer's buffer."""

    def attach(self, run: Run) -> None:
        """Be given the frames of ``run`` from now on."""

    def push(self, envelope: Envelope) -> None:
        """Take the next frame; called under the root run's lock, must not block."""

    def end(self) -> None:
        """Take nothing more: the run has ended; called under the same lock."""

    def release(self) -> None:
        """Let blocked emitters look again whether they must wait; called under the same lock."""


def new_id() -> str:
    """A fresh run id: 28 hex digits, ordered by the millisecond of their making."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(8).hex()}"


FREE: Final = 0
"""Nothing is attached: an emission is numbered by the atomic counter, and nothing is locked."""
ORDERED: Final = 1
"""A recorder or a stream is attached: an emission takes the lock."""
CANCELLED: Final = 2
"""Something in the tree was cancelled: an emission must look whether it may go on."""


class Tree:
    """What a root run and the runs nested in it share.

    ``mode`` (FREE, ORDERED, CANCELLED) is what the hot path looks at to choose its way. ``after`` holds what
    the thread inside the lock has to do once it is out.
    """

    __slots__ = ("after", "busy", "cancelled", "live", "lock", "mode", "numbers", "recorded", "sinks")

    def __init__(self) -> None:
        # Re-entrant, since a finaliser or signal handler may emit while this thread is inside;
        # `busy` tells, and what it emits is deferred until the lock is free.
        self.lock = threading.RLock()
        # Taking the next of a count is atomic on every supported build, with no lock.
        self.numbers = count()
        self.busy = False
        self.after: list[Callable[[], object]] | None = None
        self.recorded = False
        self.cancelled = False
        self.mode = FREE
        self.sinks = 0
        self.live = 0

    def judge(self) -> None:
        """Set `mode` anew; called under the lock, or before the tree is shared."""
        self.mode = CANCELLED if self.cancelled else ORDERED if self.recorded or self.sinks > 0 else FREE

    def defer(self, call: Callable[[], object]) -> None:
        """Have ``call`` made by the thread inside the lock, once it is out."""
        if self.after is None:
            self.after = []
        self.after.append(call)


class Run:
    """One execution: the scope of what is emitted in it, and a context manager around it.

    Made by `Bus.run`. ``with`` and ``async with`` alike start it, put it in scope, and end it with its
    terminal event: `RunFinished`, `RunFailed` for an Exception, `RunCancelled` for any other BaseException.
    """

    __slots__ = (
        "__weakref__", "_token", "_told", "_wanted", "attempt", "bus", "cancel_reason", "ended", "id", "name", "named",
        "outer", "parent", "root", "sinks", "start_id", "state", "tags", "tree",
    )  # fmt: skip

    def __init__(
        self,
        bus: Bus,
        name: str | None,
        run_id: str | None,
        tags: Mapping[str, str] | None,
        record: bool | None,
    ) -> None:
        self.bus = bus
        self.id: str = run_id if run_id is not None else new_id()
        self.named = run_id is not None
        """Whether the id was chosen by whoever made the run, so that it may be taken."""
        self.name = name
        self.tags = MappingProxyType(dict(tags)) if tags else _NO_TAGS
        self.parent: Run | None = None
        """The run around this one, or None."""
        self.root: Run = self
        """The outermost run around this one, or itself."""
        self.outer: Run | None = None
        """The run that was in scope when this one started, of whichever bus."""
        self.tree = _UNSTARTED
        self.state = "new"
        """"new", "running", "finished", "failed" or "cancelled"."""
        self.ended = True
        """Whether it is not running: not yet, or no more."""
        self.attempt = 1
        self.start_id: str | None = None
        self.sinks: tuple[Sink, ...] = ()
        """The buffers of this run's own streams, for routers."""
        self.cancel_reason: str | None = None
        self._wanted = record
        self._token: Token[Run | None] | None = None
        self._told: weakref.WeakSet[Any] | None = None

    def __repr__(self) -> str:
        return f"<Run {self.name or ''} {self.id} {self.state}>"

    @property
    def recorded(self) -> bool:
        """Whether this run's recording is armed."""
        return self.tree.recorded

    @property
    def over(self) -> bool:
        """Whether the root run and every run nested in it have ended."""
        return self.tree.live == 0

    def emit(self, event: Any, source: Any = None) -> Envelope | None:
        """Emit ``event`` in this run, from wherever: no context is needed. See `Bus.emit`."""
        return self.bus._emit_in(self, event, source)

    def chunk(self, text: str, kind: str = "text", source: Any = None) -> Envelope | None:
        """Emit a `Chunk` in this run, from wherever: no context is needed."""
        return self.bus._emit_in(self, Chunk(text, kind), source)

    def cancel(self, reason: str = "cancelled") -> None:
        """Cancel this run and those nested in it: the next crewbus call in each thread or task raises `Cancelled`.

        Work that calls crewbus no more is not interrupted; that is what "cooperatively" means.
        """
        self.mark_cancelled(reason)
        with self.tree.lock:
            for run in reach(self):
                for sink in run.sinks:
                    sink.release()

    def mark_cancelled(self, reason: str) -> None:
        """As `cancel`, for a finaliser, which may take no lock: blocked emitters notice a little later."""
        if self.cancel_reason is None:
            self.cancel_reason = reason
            if self.state != "new":
                self.tree.cancelled = True
                self.tree.mode = CANCELLED

    def is_cancelled(self) -> bool:
        """Whether this run or one around it was cancelled."""
        return self.tree.cancelled and any(run.cancel_reason is not None for run in reach(self))

    def check(self) -> None:
        """Raise `Cancelled` if this run or one around it was cancelled and this thread or task was not yet told."""
        for run in reach(self):
            if run.cancel_reason is not None:
                run._tell()

    def _tell(self) -> None:
        # Once for each thread or task, so that clean-up code may emit on its way out.
        loop = running_loop()
        task = sys.modules["asyncio"].current_task(loop) if loop is not None else None
        caller = task or threading.current_thread()
        if self._told is None:
            self._told = weakref.WeakSet()
        if caller not in self._told:
            self._told.add(caller)
            raise Cancelled(f"run {self.id} was cancelled: {self.cancel_reason}")

    def start(self, *sinks: Sink) -> None:
        """Start the run, without putting it in scope: for whoever carries it to another context.

        ``sinks`` get its frames from the first on. Raises `RunIdInUseError`, `RecordingError`, `RunCancelledError` if
        it was cancelled before, and `RunError` if it was started before.
        """
        if self.state != "new":
            raise RunError(f"run {self.id} is {self.state}; a run is started once: make another with bus.run()")
        if self.cancel_reason is not None:
            self.state = "cancelled"
            raise RunCancelledError(f"run {self.id} was cancelled before it started: {self.cancel_reason}")
        self.outer = scope.get()
        parent = self.bus._run_in_scope()
        if parent is not None:
            parent.check()
        if parent is not None and not parent.ended:
            self.parent, self.root, self.tree = parent, parent.root, parent.tree
        else:
            self.tree = Tree()
        self._arm()
        self.bus._admit(self, sinks)
        try:
            self.bus._announce(self, self._started())
        except BaseException:
            self.bus._withdraw(self)
            raise

    def _arm(self) -> None:
        tree, wanted = self.tree, self._wanted
        if self.parent is None:
            tree.recorded = self.bus._arms(wanted)
            tree.judge()
        elif wanted is not None and wanted != tree.recorded:
            state = "is not" if wanted else "is"
            raise RecordingError(
                f"run {self.id}: record={wanted} inside the root run {self.root.id}, which {state} recorded: "
                "nested runs share their root's record; say it at the root"
            )

    def _started(self) -> RunStarted:
        return RunStarted(self.name, dict(self.tags), self.parent.id if self.parent is not None else None)

    def retire(self, state: str) -> None:
        """Be over, with this state, and take the sinks along; called under the lock."""
        self.state, self.ended = state, True
        sinks, self.sinks = self.sinks, ()
        self.tree.live -= 1
        self.tree.sinks -= len(sinks)
        self.tree.judge()
        for sink in sinks:
            sink.end()

    def orphan(self) -> None:
        """Be over without a word: in a forked child, where the run goes on in the parent only."""
        self.tree.lock = threading.RLock()
        self.tree.busy, self.tree.after = False, None
        self.tree.sinks = self.tree.live = 0
        self.state, self.ended, self.sinks = "finished", True, ()
        self.tree.recorded = False
        self.tree.judge()

    def finish(self, error: BaseException | None = None) -> None:
        """End the run with the terminal event that ``error`` calls for; ending it again does nothing."""
        if not self.ended:
            self.bus._end(self, ending(error, self.cancel_reason))

    def __enter__(self) -> Self:
        self.start()
        self._token = scope.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self.finish(error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _leave(self) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        try:
            scope.reset(token)
        except ValueError:
            # An async generator may be finalised in another context, where there is
            # nothing to restore unless the run was inherited.
            if scope.get() is self:
                scope.set(self.outer)


_UNSTARTED: Final = Tree()


def ending(error: BaseException | None, reason: str | None = None) -> RunEnded:
    """The terminal event for a run that was left with ``error``."""
    if error is None:
        return RunFinished()
    if isinstance(error, Exception):
        kind = type(error)
        return RunFailed(f"{kind.__module__}.{kind.__qualname__}", text_of(error))
    return RunCancelled(reason if reason is not None else text_of(error) or type(error).__name__)


def reach(run: Run) -> Iterator[Run]:
    """``run`` and the runs around it, innermost first."""
    node: Run | None = run
    while node is not None:
        yield node
        node = node.parent
