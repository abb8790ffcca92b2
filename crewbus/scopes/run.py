"""Runs: one execution each, in a tree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType, TracebackType
from typing import Final, NamedTuple, Self

from crewbus import records
from crewbus._util import running_loop
from crewbus.events import Envelope
from crewbus.exceptions import ReplayMismatch, RunError
from crewbus.scopes import awaited, stopping
from crewbus.scopes.current import current_task, enclosing, scope_var
from crewbus.scopes.durable import DurableScope
from crewbus.scopes.entered import EnteredRun
from crewbus.scopes.leaving import Nothing, leaves
from crewbus.scopes.options import AS_THE_BUS, RecordingRequest, new_id
from crewbus.scopes.ports import Host, Phase, Preparation
from crewbus.scopes.run_end import state_after
from crewbus.scopes.scope import Scope, checked_error
from crewbus.scopes.sink import Sink
from crewbus.scopes.stopping import Origin, Stop, WorkingTask
from crewbus.scopes.thread_state import Deferring
from crewbus.scopes.tree import CLOSED

Opener = Callable[["Run", Iterable["Sink"]], None]
"""Starts a run, new or resumed; its sinks get its frames from the first on."""

_NOTHING: Final[AbstractContextManager[None]] = nullcontext()
_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


class ResumedFrom(NamedTuple):
    """Where a resumed run goes on."""

    after: int
    """The number of the last event that counts."""
    epoch: int
    """With which epoch it is recorded from now on."""
    checkpoint: str | None
    """The checkpoint that it was resumed from; None: from where its record ends."""


class ForkedFrom(NamedTuple):
    """What a fork shares."""

    run_id: str
    """The run that it was forked from."""
    last: int
    """The number of the last event that it shares with that run."""


class Run(DurableScope):
    """One execution: the scope of what is emitted in it, and a context manager around it.

    Made by `Bus.run`. Leaving its ``with`` block ends it with its terminal event: `RunFinished`; `RunSuspended` if it
    was suspended; `RunCancelled` if it was cancelled, or is left by KeyboardInterrupt, ``asyncio.CancelledError`` or
    GeneratorExit; `RunFailed` for what else is raised. The `Cancelled` or `Suspended` with which it is stopped leaves
    the block as `RunCancelledError` or `RunSuspendedError`.
    """

    __slots__ = (
        "_open", "_origin", "_prepare", "_started_by_handler", "_task", "around", "forked_from", "id", "is_awaited",
        "key", "name", "named", "parent", "request", "resumed", "root", "sinks", "state", "stop", "tags", "take_sinks",
        "unfinished",
    )  # fmt: skip

    scope_kind = "run"

    def __init__(
        self,
        host: Host,
        name: str | None,
        run_id: str | None,
        tags: Mapping[str, str] | None,
        request: RecordingRequest = AS_THE_BUS,
        opener: Opener | None = None,
        key: str | None = None,
        prepare: Callable[[Run], Preparation | None] | None = None,
    ) -> None:
        super().__init__(host)
        self.run = self.step_parent = self
        self.id: str = run_id if run_id is not None else new_id()
        self.named = run_id is not None
        """Whether its maker chose the id, so that it may be in use."""
        self.name = name
        self.key = key
        """What distinguishes it, in a resumed run, from others of its name in the same run or step; or None."""
        self.tags = _NO_TAGS
        self.set_tags(tags)
        self.parent: Run | None = None
        """The run around this one, or None."""
        self.root: Run = self
        """The outermost run around this one, or itself."""
        self.around: Scope | None = None
        """The run or step that it is nested in, or None."""
        self.state = "new"
        """"new", "running", "finished", "failed", "cancelled" or "suspended"."""
        self.unfinished = 0
        """How many runs directly inside it are live, or have a live run inside them; -1 once it is complete."""
        self.sinks: tuple[Sink, ...] = ()
        """The buffers of this run's own streams, for routers."""
        self.stop: Stop | None = None
        """How it was cancelled or suspended, if it was."""
        self.resumed: ResumedFrom | None = None
        """What it continues, if it resumes a recorded run: known of the root run, once it starts."""
        self.forked_from: ForkedFrom | None = None
        """Of which run it shares the record, if it resumes a fork: known of the root run, once it starts."""
        self.request = request
        """How it is recorded, as far as its maker chose."""
        self._open: Opener = opener or host.start
        self._prepare = prepare
        self.is_awaited = False  # whether the task that enters and leaves it waits for the disk itself
        self._origin: Origin | None = None
        self._started_by_handler = False
        """Whether a handler of the run around it started it: the cancellation of that run does not reach it."""
        self._task: WorkingTask | None = None
        """The asyncio task that entered it."""
        self.take_sinks: Callable[[], Iterable[Sink]] = tuple
        """Returns the sinks that get its frames from the first on, once it has started; called under the lock."""

    def __repr__(self) -> str:
        return f"<Run {self.name or ''} {self.id} {self.state}>"

    def _repr_html_(self) -> str:
        return records.run_html(self, self.host.bus.records if self.recorded else None)

    @property
    def stop_reason(self) -> str | None:
        """Why it was cancelled or suspended; None: it was not."""
        return self.stop.reason if self.stop is not None else None

    @property
    def dropped_frames(self) -> int:
        """How many frames the streams of its root run, and of the runs in that, have dropped so far."""
        return self.tree.dropped

    @property
    def recorded(self) -> bool:
        """Whether this run's recording is armed."""
        return self.tree.recorded

    @property
    def epoch(self) -> int:
        """The store's epoch with which a resumed run is recorded; 0 for a run that was never recorded before."""
        return self.tree.log.epoch if self.tree.log is not None else 0

    @property
    def over(self) -> bool:
        """Whether the root run and every run nested in it have ended."""
        return self.tree.live == 0

    def innermost(self) -> Scope:
        """The current scope if it is inside this run, else this run."""
        here = scope_var.get()
        if here is None or here is self:
            return self
        here = self.host.own(here)
        return here if here is not None and here.run is self else self

    def set_tags(self, tags: Mapping[str, str] | None) -> None:
        """Replace its tags."""
        self.tags = MappingProxyType(dict(tags)) if tags else _NO_TAGS

    # Its life

    def start(self, *sinks: Sink) -> None:
        """Start the run, without making it current, to be carried to another context.

        ``sinks`` get its frames from the first on. Raises `RunIdInUseError`, `RecordingError`, `RunCancelledError` or
        `RunSuspendedError` if it was stopped before, and `RunError` if it was started before.
        """
        if self.state != "new":
            instead = "enter it once more with run.scope()" if not self.ended else "make another with bus.run()"
            raise RunError(f"run {self.id} is {self.state}; a run is started once: {instead}")
        if self.stop is not None:
            self.state = self.stop.state
            raise self.stop.left_error(self.id, " before it started")
        self.outer = enclosing()
        self._origin = stopping.origin_here()
        self._open(self, sinks)

    def nest(self, around: Scope | None) -> bool:
        """Be part of the run that ``around`` belongs to, if that is live; returns whether it is nested."""
        parent = around.run if around is not None else None
        if around is None or parent is None or parent.ended:
            return False
        self.parent, self.root, self.tree = parent, parent.root, parent.tree
        self.around = around.step_parent
        self._started_by_handler = not parent.is_own_work()
        self.inherit(around)
        return True

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.work_here()
        except BaseException as error:  # an interrupt, or it was stopped meanwhile
            self.__exit__(type(error), error, None)
            raise
        return self

    def scope(self) -> EnteredRun:
        """This run once more, to be entered with ``with`` where it is not current; leaving that does not end the run.

        For code that the context of the run's own ``with`` does not reach, as in another request handler or callback:
        what is emitted in there, calls and steps belong to the run. Entering it raises `RunError` unless the run is
        running, and `Cancelled` or `Suspended` if it was stopped.
        """
        return EnteredRun(self)

    @leaves
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_stopped = self._stop_working(error)
        super().__exit__(kind, error, trace)
        if is_stopped:
            assert self.stop is not None
            raise self.stop.left_error(self.id) from error

    async def __aenter__(self) -> Self:
        self.is_awaited = running_loop() is not None  # another kind of loop blocks
        await (awaited.enter(self) if self.is_awaited else super().__aenter__())
        return self

    @leaves
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        self.__exit__(kind, error, trace)
        return awaited.Written(self) if self.is_awaited and self.recorded else Nothing()

    def preparation(self) -> Preparation | None:
        """What may block before it can start; None: nothing."""
        return (self._prepare or self.host.prepare)(self)

    def work_here(self) -> None:
        """Note that this thread or task does the run's work. Raises what `check` does."""
        if self.tree.log is not None:
            self.host.steps.enter(self)
        self._task = self.enter_task()
        self.refuse_stopped()

    def enter_task(self) -> WorkingTask | None:
        """The asyncio task that runs here, if one does: stopping the run interrupts what it awaits from now on."""
        task = current_task()
        if task is None:
            return None
        working = WorkingTask(self, task)
        with Deferring(self.tree.lock), self.tree.lock:
            if self.tree.working is None:
                self.tree.working = {}
            self.tree.working[working] = None
        return working

    def leave_task(self, working: WorkingTask | None, error: BaseException | None) -> bool:
        """Interrupt the task no longer. Returns whether ``error`` is what stopped this run."""
        interrupted = False
        if working is not None:
            if self.tree.working is not None:
                self.tree.working.pop(working, None)
            interrupted = working.leave()
        return self.stop is not None and stopping.ends_with(error, self.id, interrupted)

    def _stop_working(self, error: BaseException | None) -> bool:
        is_stopped, self._task = self.leave_task(self._task, error), None
        return is_stopped

    def refuse_stopped(self) -> None:
        """As `check`, once the work is known: `cancel` marks the run first, and then looks for its tasks."""
        if self.tree.stopped:
            self.check()

    def finish(self, error: BaseException | None = None) -> None:
        """End the run with the terminal event that ``error`` calls for; ending it again does nothing."""
        checked_error(error, type(None))
        if not self.ended:
            self.host.finish(self, error)

    def around_work(self) -> AbstractContextManager[None]:
        """What plugins put around the function that `work_here` was called for."""
        return self._around or _NOTHING

    def end_work(self, error: BaseException | None) -> None:
        """End it as the function that `work_here` was called for has ended."""
        self._stop_working(error)
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """End it as its ``with`` block ended."""
        try:
            if error is None and self.tree.log is not None and not self.is_stopped():
                self.host.steps.complete(self)
        except ReplayMismatch as mismatch:
            self.finish(mismatch)
            raise
        try:
            self.finish(error)
        except BaseException as interrupt:
            self.host.finish(self, interrupt)  # an interrupt may have come anywhere in it
            raise

    # Called under the lock

    def accepts(self, phase: Phase) -> bool:
        """Whether it may be started or ended by another event."""
        return not (phase == Phase.END and self.ended)

    def transition(self, phase: Phase, envelope: Envelope) -> None:
        """Be started or ended by ``envelope``."""
        super().transition(phase, envelope)
        if phase == Phase.START:
            if self.tree.started is None:
                self.tree.started = envelope.at
            self._begin()
        if phase == Phase.END:
            if envelope.replayed:  # no router is asked about what the record holds already
                for sink in self.sinks:
                    sink.push(self, envelope)
            self.retire(state_after(envelope.event))

    def _begin(self) -> None:
        if self.ended:
            self.ended = False
            self.tree.live += 1
            if self.parent is not None:
                self.parent.unfinished += 1
        for sink in self.take_sinks():
            sink.attach(self)
        self.take_sinks = tuple
        self.state = "running"
        self.gate = CLOSED if self.attempts else self.tree
        if self.stop is not None:  # it was stopped while it started
            if not self.tree.recorded:
                self.stop = Stop(self.stop.reason)
            stopping.mark_in_tree(self)

    def close_gate(self) -> None:
        """Have what is emitted without the lock numbered before the event that ends it, or not in it."""
        if self.gate.free:
            self.gate = CLOSED
            self.tree.renumber()

    def add_sink(self, sink: Sink) -> None:
        """Push frames into ``sink`` from now on."""
        if sink not in self.sinks:
            self.sinks += (sink,)
            self.tree.sinks += 1
        self.tree.refresh()

    def remove_sink(self, sink: Sink) -> None:
        """Push no more frames into ``sink``."""
        if sink in self.sinks:
            self.sinks = tuple(other for other in self.sinks if other is not sink)
            self.tree.sinks -= 1
            self.tree.refresh()

    def retire(self, state: str) -> None:
        """Be over, with this state, and detach the sinks. Doing it again does what an interrupt left undone."""
        if not self.ended:
            self.tree.live -= 1
            self.state, self.ended, self.gate, self.tries = state, True, CLOSED, ()
        self._complete()
        while self.sinks:
            self.sinks[0].end()
            self.sinks = self.sinks[1:]
            self.tree.sinks -= 1
        self.tree.refresh()

    def _complete(self) -> None:
        """Once it and all inside it have ended: slow its tree down no longer, if it was stopped."""
        run: Run | None = self
        while run is not None and run.ended and run.unfinished <= 0:
            run.tree.stopped.pop(run, None)
            parent, before, run.unfinished = run.parent, run.unfinished, -1
            if parent is not None and before == 0:
                parent.unfinished -= 1
            run = parent

    def orphan(self) -> None:
        """In a forked child: be over silently, since the run continues in the parent only."""
        self.tree.orphan(self.host.outside.lane)
        self.state, self.ended, self.gate, self.sinks = "finished", True, CLOSED, ()

    # Stopping

    def cancel(self, reason: str = "cancelled") -> None:
        """Cancel this run and those nested in it. It ends as cancelled, and cancelling it again changes nothing.

        The next crewbus call in each thread or task of its own work raises `Cancelled`, and the asyncio tasks that
        entered it, or that a stream started for it, are cancelled where they await. Handlers, callbacks, observers and
        the runs around it are not cancelled. Threads that make no crewbus call are not interrupted. A run that is being
        suspended ends as cancelled instead.
        """
        stop = Stop.cancelling(reason)
        if self.stop is not None and self.stop.suspends and not self.ended:
            self.stop = stop
        self.mark_stopped(stop)

    def suspend(self, reason: str = "suspended", until: float | None = None) -> None:
        """Have the root run around this one, or itself, leave off where it is, to be resumed in any process.

        `Suspended` is raised in its work as `Cancelled` is by `cancel`, and again at each step, call or attempt that
        the work begins; what it emits meanwhile is discarded. The run then ends with `RunSuspended`, and its lease with
        it; what was in progress stays open in the record. ``until``: before which time it should not be resumed, in
        seconds since the epoch (UTC). A run that is not recorded is cancelled. Stopping it again changes nothing.
        """
        root = self.root
        root.mark_stopped(Stop.suspending(reason, until, root.recorded or root.state == "new"))

    def mark_stopped(self, stop: Stop) -> None:
        """Stop the run, unless it was stopped before; from a finaliser too, which may take no lock."""
        if self.stop is None and not (self.ended and self.state != "new"):
            self.stop = stop
            if not self.ended:
                stopping.mark_in_tree(self)

    def works_for(self) -> Iterator[Run]:
        """The runs whose own work this one is part of, itself first: what stops one of them stops it."""
        run: Run | None = self
        while run is not None:
            yield run
            run = None if run._started_by_handler else run.parent

    def stopped_by(self) -> Iterator[Run]:
        """Those of them that were stopped."""
        return (run for run in self.works_for() if run.stop is not None)

    def is_stopped(self) -> bool:
        """Whether this run, or one around it whose own work it is part of, was cancelled or suspended."""
        return any(True for _ in self.stopped_by())

    def is_suspending(self) -> bool:
        """Whether it is to be resumed from where it is, so that nothing that goes wrong in it is recorded any more."""
        return bool(self.tree.stopped) and any(run.stop is not None and run.stop.suspends for run in self.works_for())

    def is_own_work(self) -> bool:
        """Whether the caller does this run's own work, and not that of a handler which one of its events called."""
        return stopping.is_own_work(self._origin)

    def check(self) -> None:
        """Raise `Cancelled` or `Suspended` if this run or one around it was stopped.

        `Cancelled` is raised once in each thread and task, and `Suspended` each time. Does nothing in handlers,
        callbacks and observers. Once a cancelled run has ended, for example because its work did not stop in time, each
        call in its work raises.
        """
        stopped = stopping.notify(self)
        if stopped is not None and stopped.stop.suspends:
            raise stopped.stop.error(stopped.id)

    def discards(self) -> bool:
        """As `check`. Returns whether an emission is discarded: its caller was told that the run is suspended."""
        stopped = stopping.notify(self)
        return stopped is not None and stopped.stop.suspends

    def reach(self) -> Iterator[Run]:
        """This run and the runs around it, innermost first."""
        run: Run | None = self
        while run is not None:
            yield run
            run = run.parent
