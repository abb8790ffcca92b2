"""Runs: one execution each, in a tree. What a tree shares: the lock, the numbers, the gate of recording."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self, TypeVar

from crewbus._util.callables import name_of
from crewbus._util.loops import running_loop
from crewbus.durability.run_log import Durability, Log
from crewbus.durability.step_function import Declared, Key
from crewbus.events import Envelope, RunCancelled, RunEnded, RunFailed, RunFinished, RunStarted
from crewbus.exceptions import (
    Cancelled,
    RecordingError,
    ReplayMismatch,
    RunCancelledError,
    RunError,
    SlowConsumer,
    text_of,
)
from crewbus.scopes.current import scope, strand
from crewbus.scopes.scope import Scope
from crewbus.scopes.tree import CANCELLED, UNSTARTED, Tree

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus
    from crewbus.durability.step import Step
    from crewbus.scopes.call import Call

__all__ = ["Run", "Sink"]

T = TypeVar("T")

_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


class RecordingRequest(NamedTuple):
    """How a run is to be recorded; None: as its bus says."""

    record: bool | None = None
    durability: Durability | None = None


AS_THE_BUS: Final = RecordingRequest()


class Sink(Protocol):
    """What a run's frames are pushed into: one consumer's buffer. Plugins may read its properties."""

    @property
    def bound(self) -> int:
        """How many frames it holds at most, if its consumer is one that waits or drops."""

    @property
    def waiting(self) -> int:
        """How many frames its consumer has not dealt with."""

    @property
    def left_out(self) -> int:
        """How many frames were left out since its consumer last came, for want of room."""

    @property
    def failure(self) -> SlowConsumer | None:
        """What its consumer was failed with; None: nothing."""

    def attach(self, run: Run) -> None:
        """Be given the frames of ``run`` from now on."""

    def push(self, run: Run, envelope: Envelope) -> None:
        """Take the next frame, which ``run`` emitted; called under the root run's lock, must not block."""

    def end(self) -> None:
        """Take nothing more: the run has ended; called under the same lock."""

    def release(self) -> None:
        """Let blocked emitters look again whether they must wait; called under the same lock."""


def new_id() -> str:
    """A fresh run id: 28 hex digits, ordered by the millisecond of their making."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(8).hex()}"


class Run(Scope):
    """One execution: the scope of what is emitted in it, and a context manager around it.

    Made by `Bus.run`. Leaving its ``with`` ends it with its terminal event: `RunFinished`, `RunFailed` for an
    Exception, `RunCancelled` for any other BaseException.
    """

    __slots__ = (
        "_told", "cancel_reason", "ended", "id", "name", "named", "parent", "root", "sinks", "state", "tags", "wanted",
    )  # fmt: skip

    def __init__(
        self,
        bus: Bus,
        name: str | None,
        run_id: str | None,
        tags: Mapping[str, str] | None,
        wanted: RecordingRequest,
    ) -> None:
        super().__init__(bus, UNSTARTED)
        self.id: str = run_id if run_id is not None else new_id()
        self.named = run_id is not None
        """Whether the id was chosen by whoever made the run, so that it may be taken."""
        self.name = name
        self.tags = MappingProxyType(dict(tags)) if tags else _NO_TAGS
        self.parent: Run | None = None
        """The run around this one, or None."""
        self.root: Run = self
        """The outermost run around this one, or itself."""
        self.state = "new"
        """"new", "running", "finished", "failed" or "cancelled"."""
        self.ended = True
        """Whether it is not running: not yet, or no more."""
        self.sinks: tuple[Sink, ...] = ()
        """The buffers of this run's own streams, for routers."""
        self.cancel_reason: str | None = None
        self.wanted = wanted
        """How it is to be recorded, as far as it was said."""
        self._told: weakref.WeakSet[Any] | None = None

    def __repr__(self) -> str:
        return f"<Run {self.name or ''} {self.id} {self.state}>"

    @property
    def recorded(self) -> bool:
        """Whether this run's recording is armed."""
        return self.tree.recorded

    @property
    def epoch(self) -> int:
        """With which epoch of the store a resumed run is recorded; 0 for one that was never recorded before."""
        return self.tree.log.epoch if self.tree.log is not None else 0

    @property
    def over(self) -> bool:
        """Whether the root run and every run nested in it have ended."""
        return self.tree.live == 0

    @property
    def run(self) -> Run:
        """Itself: what is in scope may be a call or an attempt, which belong to a run."""
        return self

    @property
    def call(self) -> Call | None:
        """None: what is emitted in a run nested in a call is that run's, not the call's."""
        return None

    @property
    def base(self) -> Tree:
        """The tree that it shares with its root."""
        return self.tree

    @property
    def place(self) -> Run:
        """Itself: what steps are called in is a run, or another step."""
        return self

    @property
    def around(self) -> Run | Step | None:
        """The run or step that it is nested in, or None."""
        if self.parent is None:
            return None
        around = self.bus._own(self.outer)
        place = around.place if around is not None else None
        return place if place is not None and place.run is self.parent else self.parent

    def _here(self) -> Scope:
        here = scope.get()
        if here is None or here is self:
            return self
        here = self.bus._own(here)
        return here if here is not None and here.run is self else self

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
                self.tree.mode = CANCELLED  # at once, without the lock

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
        self._refuse_to_start()
        around = self.bus._own(self.bus._scope())
        parent = around.run if around is not None else None
        if parent is not None:
            parent.check()
        if parent is not None and not parent.ended:
            self.parent, self.root, self.tree = parent, parent.root, parent.tree
            self._open_under(around)
        else:
            self.tree = Tree()
        self._arm()
        told = self.bus._claim_run(self)
        try:
            self.bus._admit(self, sinks, known=told is not None)
            self.bus._announce(self, self._started(), told)
        except BaseException:
            self.bus._withdraw(self)
            raise

    def _refuse_to_start(self) -> None:
        if self.state != "new":
            raise RunError(f"run {self.id} is {self.state}; a run is started once: make another with bus.run()")
        if self.cancel_reason is not None:
            self.state = "cancelled"
            raise RunCancelledError(f"run {self.id} was cancelled before it started: {self.cancel_reason}")
        self.outer = scope.get()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Bear the tags of the record."""
        self.tags = MappingProxyType(dict(tags)) if tags else _NO_TAGS

    def _arm(self) -> None:
        tree, (record, durability) = self.tree, self.wanted
        if self.parent is None:
            tree.recorded = self.bus._arms(record)
            if tree.recorded:
                tree.log = Log(self.bus._is_sync(durability))
            tree.judge()
        elif record is not None and record != tree.recorded:
            state = "is not" if record else "is"
            raise RecordingError(
                f"run {self.id}: record={record} inside the root run {self.root.id}, which {state} recorded: "
                "nested runs share their root's record; say it at the root"
            )

    def _started(self) -> RunStarted:
        return RunStarted(self.name, dict(self.tags), self.parent.id if self.parent is not None else None)

    def settle_in(self) -> None:
        """Have this thread or task be the one that the run goes on in: its steps are told in their order here."""
        if self.tree.log is not None:
            self.tree.log.strands[self] = strand()

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.settle_in()
        except BaseException as error:  # an interrupt
            self.__exit__(type(error), error, None)
            raise
        return self

    def add_sink(self, sink: Sink) -> None:
        """Push frames into ``sink`` from now on; called under the lock."""
        self.sinks += (sink,)
        self.tree.sinks += 1
        self.tree.judge()

    def remove_sink(self, sink: Sink) -> None:
        """Push no more frames into ``sink``; called under the lock."""
        if sink in self.sinks:
            self.sinks = tuple(other for other in self.sinks if other is not sink)
            self.tree.sinks -= 1
            self.tree.judge()

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
        self.tree.recorded, self.tree.log = False, None
        self.tree.judge()

    def finish(self, error: BaseException | None = None) -> None:
        """End the run with the terminal event that ``error`` calls for; ending it again does nothing."""
        if not self.ended:
            reasons = (run.cancel_reason for run in reach(self) if run.cancel_reason is not None)
            self.bus._end(self, ending(error, next(reasons, None)))

    def _exit(self, error: BaseException | None) -> None:
        try:
            if error is None:
                self.bus._refuse_rest(self)
        except ReplayMismatch as mismatch:
            self.finish(mismatch)
            raise
        try:
            self.finish(error)
        except BaseException as interrupt:
            if not (self.ended or isinstance(interrupt, Exception)):
                self.finish(interrupt)  # an interrupt may have come before it did anything
            raise

    # Recording

    def step(self, name: str, fn: Callable[..., T], /, *args: Any, key: Key | None = None, **kwargs: Any) -> T:
        """Call ``fn(*args, **kwargs)`` as the step ``name`` of this run, and return what it returns.

        Of an async function it is a coroutine, to be awaited. See `crewbus.step`.
        """
        return self.bus._perform(Declared(name, fn, key), self._here(), args, kwargs)  # type: ignore[no-any-return]

    def checkpoint(self, name: str) -> Envelope | None:
        """Save a position to resume or fork from, with the state of the tracked entities; it is on disk on return.

        Returns None where the run is not recorded. Raises `RecordingError`, and `UnserializableError` for an entity
        that would not come back as it is. On an event loop: ``await run.acheckpoint(name)``.
        """
        return self.bus._checkpoint(self._here(), name)

    async def acheckpoint(self, name: str) -> Envelope | None:
        """As `checkpoint`, without blocking the loop."""
        return await self.bus._acheckpoint(self._here(), name)

    def track(self, name: str, entity: T) -> T:
        """Have checkpoints keep the state of ``entity``, an instance of a registered type, under ``name``; returns it.

        Does nothing where the run is not recorded. Raises `UnregisteredEventError`: see `crewbus.register_entity`.
        """
        self.bus._track(self, name, entity)
        return entity


def ending(error: BaseException | None, reason: str | None = None) -> RunEnded:
    """The terminal event for a run that was left with ``error``."""
    if error is None:
        return RunFinished()
    if isinstance(error, Exception):
        return RunFailed(name_of(type(error)), text_of(error))
    return RunCancelled(reason if reason is not None else text_of(error) or type(error).__name__)


def reach(run: Run) -> Iterator[Run]:
    """``run`` and the runs around it, innermost first."""
    node: Run | None = run
    while node is not None:
        yield node
        node = node.parent
