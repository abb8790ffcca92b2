"""The live runs of a bus: admitted, started, finished; and the streams that wait for one to start."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from crewbus._util import call_all, raise_first, reentrant_lock
from crewbus.bus.requests import Requests
from crewbus.dispatch import UNRECORDED, withheld
from crewbus.events import RunStarted, RunSuspended
from crewbus.exceptions import BusClosedError, FencedError, RunIdInUseError
from crewbus.scopes import Deferring, Host, Phase, Run, Tree, ending, interrupt, state_after, threads

if TYPE_CHECKING:
    from crewbus.dispatch import FaultReporter, HookTable, Subscriptions
    from crewbus.durability import Gate
    from crewbus.scopes import Sink
    from crewbus.streams import Buffer, Follower


class LiveRuns:
    """Which runs of a bus are live."""

    def __init__(
        self,
        host: Host,
        hooks: HookTable,
        subscriptions: Subscriptions,
        faults: FaultReporter,
        gate: Gate,
    ) -> None:
        self._host = host
        self._hooks = hooks
        self._subscriptions = subscriptions
        self._faults = faults
        self._gate = gate
        self.by_id: dict[str, Run] = {}
        """The live runs, in the order of their start."""
        self._ending: dict[Run, None] = {}
        """The runs whose end is in progress, or was interrupted."""
        self._watchers: dict[str, set[weakref.ref[Buffer]]] = {}
        """The buffers that wait for a run to start, by its id."""
        self._gone: deque[tuple[str, weakref.ref[Buffer]]] = deque()
        """Of these buffers, those that are gone, and are to be forgotten."""
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self.listeners: dict[object, Callable[[], object]] = {}
        """Called whenever a run has started or ended, by what each belongs to. Changed by single operations."""
        self.requests = Requests(self.all)
        self._closed = False
        self._lock = reentrant_lock()

    def all(self) -> list[Run]:
        """The live runs, in the order of their start."""
        with Deferring(self._lock), self._lock:
            return list(self.by_id.values())

    def find(self, run_id: str) -> Run | None:
        """The live run of that id, or None."""
        return self.by_id.get(run_id)

    def is_starting(self, run_id: str) -> bool:
        """Whether a thread is about to start the run of that id: its record may not be there yet."""
        run = self.by_id.get(run_id)
        return run is not None and run.state == "new"

    # Starting

    def start(self, run: Run, sinks: Iterable[Sink]) -> None:
        """Start a new run, nested in the current one if that is live. See `Run.start`."""
        around = self._host.current_scope()
        if around is not None and around.run is not None:
            around.run.check()
        if not run.nest(around):
            run.tree = Tree(self._host.outside.lane)
        run.surround()
        replayed_seq = self._gate.arm(run)
        try:
            self.admit(run, sinks, known=replayed_seq is not None)
            self.announce(run, self._started(run), replayed_seq)
        except BaseException as error:
            self.withdraw(run, error)
            raise

    @staticmethod
    def _started(run: Run) -> RunStarted:
        return RunStarted(run.name, dict(run.tags), run.parent.id if run.parent is not None else None, run.key)

    def admit(self, run: Run, sinks: Iterable[Sink], known: bool = False) -> None:
        """Reserve the id of ``run``, which starts with ``sinks``; ``known``: the store may have it already.

        The streams that wait for it are attached when it starts, under the lock under which its start is numbered.
        """
        if run.named and not known:
            self._gate.refuse_recorded(run)
        with Deferring(self._lock), self._lock:
            if self._closed:
                raise BusClosedError(f"this bus is closed: run {run.id} can't start")
            if run.id in self.by_id:
                raise RunIdInUseError(f"run {run.id} is live: choose another id, or wait for its end")
            self.by_id[run.id] = run
        run.take_sinks = lambda: [*sinks, *self._take_watchers(run)]

    def _take_watchers(self, run: Run) -> list[Sink]:
        """The streams that wait for ``run``, which is live from now on."""
        with Deferring(self._lock), self._lock:
            run.state = "running"
            watchers = [buffer() for buffer in self._watchers.get(run.id, ())]
        return [buffer for buffer in watchers if buffer is not None]

    def _forget_attached(self, run: Run) -> None:
        """Forget the streams that waited for ``run``, once they are attached to it: none waits for a live run."""
        if run.id in self._watchers:
            with Deferring(self._lock), self._lock:
                self._watchers.pop(run.id, None)

    def announce(self, run: Run, started: RunStarted, replayed_seq: int | None = None) -> None:
        """Emit the event that starts ``run``; ``replayed_seq``: its number, if the record holds it."""
        if run.parent is None and run.recorded:
            self.requests.expect(self._gate.opened().recorder.store)
        self._faults.notify("crewbus_run_start", run=run)
        event: Any = started
        if self._hooks.redaction.chain:
            event = self._hooks.redaction.apply(run, event)
        run.tree.lane.commit(self._subscriptions.plan_of(event), run, event, None, Phase.START, replayed_seq)
        if threads.state.holds_lock():  # the start itself is deferred
            self._faults.defer(lambda: self._forget_attached(run))
        else:
            self._forget_attached(run)
        self._notify()

    def withdraw(self, run: Run, error: BaseException) -> None:
        """Forget a run whose start failed with ``error``. The streams that wait for it wait on."""
        if not run.ended:  # its start was committed, and then this came
            self._end_unrecorded(run, ending(error), [])
            self._dismiss(run)
        elif self.by_id.get(run.id) is run:
            run.state = "failed"
            self._dismiss(run)

    # Finishing

    def finish(self, run: Run, error: BaseException | None) -> None:
        """End a run with the terminal event that ``error`` calls for; nothing of the run comes after it.

        Of a run whose end an interrupt has cut short, it does the rest.
        """
        if threads.state.holds_lock():
            self._faults.defer(lambda: self.finish(run, error))
            return
        if run.ended and run not in self._ending:
            return
        event, failures = self._end_of(run, error), list[BaseException]()
        self._ending[run] = None
        try:
            if not run.ended:
                if self._hooks.redaction.chain:
                    event = self._redacted(run, event, failures)
                if run.parent is not None and isinstance(event, RunSuspended):  # it stays open in the record
                    self._end_unrecorded(run, event, failures)
                else:
                    self._commit_end(run, event, failures)
        except BaseException as failure:
            failures.append(failure)
        finally:
            if not run.ended and failures:
                lost = next((one for one in failures if isinstance(one, FencedError | RunIdInUseError)), None)
                event = event if error or lost is None else ending(lost)
                self._end_unrecorded(run, event, failures, observed=not self._closed)
            if run.ended:
                self._dismiss(run)
        raise_first(failures)

    def _end_of(self, run: Run, error: BaseException | None) -> Any:
        stops = (one.stop for one in run.stopped_by())
        event = ending(error, next(stops, None))
        self._gate.complete(run, event, error)
        return event

    def _commit_end(self, run: Run, event: Any, failures: list[BaseException]) -> None:
        """Commit the terminal event of ``run``; once more, if an interrupt came before it was recorded."""
        for _ in range(2):
            plan = self._subscriptions.closing_plan() if self._closed else self._subscriptions.plan_of(event)
            try:
                run.tree.lane.commit(plan, run, event, None, Phase.END)
            except Exception:
                raise
            except BaseException as interrupt:
                failures.append(interrupt)
                if not run.ended:
                    continue
            return

    def _redacted(self, run: Run, event: Any, failures: list[BaseException]) -> Any:
        try:
            return self._hooks.redaction.apply(run, event)
        except BaseException as error:  # an interrupt too: the run ends all the same
            failures.append(error)
            return withheld(event)

    def _end_unrecorded(self, run: Run, event: Any, failures: list[BaseException], *, observed: bool = False) -> None:
        """End a run whose terminal event can't be recorded: its streams get it, and its number goes to the next."""
        plan = self._subscriptions.closing_plan(observed=observed)
        try:
            self._host.outside.lane.commit(plan, run, event, None, Phase.END, UNRECORDED)
        except BaseException as failure:
            failures.append(failure)
            with Deferring(run.tree.lock), run.tree.lock:
                if not run.ended:
                    run.retire(state_after(event))

    def give_up(self, run: Run, error: BaseException) -> None:
        """End a run and those nested in it, the innermost first: what they still emit is discarded."""
        for nested in reversed(self.all()):
            if run in nested.reach():
                nested.finish(error)
        interrupt(run)

    def _dismiss(self, run: Run) -> None:
        self._forget(run)
        self._faults.notify("crewbus_run_finish", run=run)
        if run.tree.log is not None:
            with Deferring(run.tree.lock), run.tree.lock:
                if run.over:
                    run.tree.log.clear()
        self._ending.pop(run, None)
        self._notify()

    def _notify(self) -> None:
        call_all(list(self.listeners.values()))

    def _forget(self, run: Run) -> None:
        with Deferring(self._lock), self._lock:
            if self.by_id.get(run.id) is run:
                del self.by_id[run.id]

    # Watching

    def watch(self, run_id: str, buffer: Buffer) -> Run | None:
        """The run of that id, if it has started; if not, ``buffer`` is attached to it when it starts."""
        with Deferring(self._lock), self._lock:
            if self._closed:
                raise BusClosedError(f"this bus is closed: run {run_id} can't be watched")
            self._forget_watchers()
            run = self.by_id.get(run_id)
            if run is None or run.state == "new":
                run, gone = None, self._gone
                self._watchers.setdefault(run_id, set()).add(
                    weakref.ref(buffer, lambda ref: gone.append((run_id, ref)))
                )
            return run

    def _forget_watchers(self) -> None:
        """Forget the buffers that are gone; called under the lock, which their weakrefs' callbacks do not take."""
        while self._gone:
            run_id, buffer = self._gone.popleft()
            waiting = self._watchers.get(run_id, set())
            waiting.discard(buffer)
            if not waiting:
                self._watchers.pop(run_id, None)

    def awaited(self) -> list[Buffer]:
        """The buffers that wait for a run to start."""
        with Deferring(self._lock), self._lock:
            self._forget_watchers()
            buffers = [buffer() for waiting in self._watchers.values() for buffer in waiting]
        return [buffer for buffer in buffers if buffer is not None]

    # Closing and forking

    def follow(self, run_id: str, follower: Follower) -> Follower:
        """Interrupt ``follower``, which reads a record, when the bus is closed."""
        with Deferring(self._lock), self._lock:
            if self._closed:
                raise BusClosedError(f"this bus is closed: run {run_id} can't be followed")
            self._followers.add(follower)
        return follower

    def close(self) -> None:
        """Admit no run any more, and end the streams that are left."""
        self.requests.close()
        with Deferring(self._lock), self._lock:
            self._closed = True
            sources: list[Any] = list(self.awaited())
            sources += [sink for run in self.by_id.values() for sink in run.sinks]
            sources += self._followers
        call_all([source.interrupt for source in sources])
        with Deferring(self._lock), self._lock:
            self._watchers.clear()

    def after_fork(self) -> None:
        """In a forked child: every run continues in the parent only."""
        self._lock = reentrant_lock()
        self.requests.after_fork()
        for run in self.by_id.values():
            run.orphan()
        self.by_id.clear()
        self._watchers.clear()
