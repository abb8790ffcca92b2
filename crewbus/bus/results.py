"""Waiting for the results of recorded runs, which may run in any process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from crewbus._util import deadline, in_worker, remaining, running_loop
from crewbus.events import RunCancelled, RunFailed, RunFinished
from crewbus.exceptions import BusClosedError, ConsumptionError, ResultTimeoutError, RunNotFoundError
from crewbus.scopes import Wait, end_wait, threads

if TYPE_CHECKING:
    from crewbus.bus.live_runs import LiveRuns
    from crewbus.durability import Gate
    from crewbus.events import Envelope
    from crewbus.scopes import Host, Run
    from crewbus.stores import Store


class RunResults:
    """Waits until a run has ended, and returns its result.

    The end of a run of this bus wakes who waits for it; for a run of another process its store does.
    """

    def __init__(self, host: Host, gate: Gate, live: LiveRuns) -> None:
        self._host = host
        self._gate = gate
        self._live = live

    def wait(self, run_id: str, timeout: float | None, returns: Any) -> Any:
        """See `Bus.result`."""
        if running_loop() is not None:
            raise ConsumptionError("result() would block the event loop that runs here: use 'await bus.aresult()'")
        waiting = _Waiting(self._host, self._live, self._store, run_id, timeout)
        with waiting:
            while (end := self._end_of(run_id)) is None:
                waiting.require()
                waiting.wait.pause(waiting.pause())
        return self._outcome(run_id, end, returns)

    async def wait_async(self, run_id: str, timeout: float | None, returns: Any) -> Any:
        """See `Bus.aresult`."""
        if running_loop() is None:  # another kind of loop drives it
            return self.wait(run_id, timeout, returns)
        waiting = _Waiting(self._host, self._live, self._store, run_id, timeout, blocks=False)
        with waiting:
            while (end := await in_worker(partial(self._end_of, run_id))) is None:
                waiting.require()
                await waiting.wait.apause(await in_worker(waiting.pause))
        return await in_worker(partial(self._outcome, run_id, end, returns))

    def _end_of(self, run_id: str) -> Envelope | None:
        """The terminal event of a run that has ended; None while it goes on, is suspended or was interrupted."""
        if self._host.closed:
            raise BusClosedError(f"this bus is closed: it can't be asked for the result of run {run_id}")
        record = self._gate.opened().recorder.record_of(run_id)
        try:
            end = record.outcome()
        except RunNotFoundError:  # it has begun, and has no event yet
            return None
        return end if end is not None and isinstance(end.event, RunFinished | RunFailed | RunCancelled) else None

    def _store(self) -> Store:
        return self._gate.opened().recorder.store

    def _outcome(self, run_id: str, end: Envelope, returns: Any) -> Any:
        recording = self._gate.opened()
        recording.recorder.disk.wait_for(recording.recorder.record_of(run_id).root_id)
        return recording.results.outcome(run_id, end, returns)


class _Waiting:
    """One wait for the end of a run, for as long as its ``with`` block lasts."""

    def __init__(
        self,
        host: Host,
        live: LiveRuns,
        store: Callable[[], Store],
        run_id: str,
        timeout: float | None,
        *,
        blocks: bool = True,
    ) -> None:
        here = host.current_scope()
        self._host = host
        self._live = live
        self._run_id = run_id
        self._timeout = timeout
        self._until = deadline(timeout)
        self._store = store
        self._unwatch: Callable[[], None] | None = None
        """Ends the watching of the store."""
        self._around: Run | None = here.run if here is not None else None
        """The run that waits, if one does."""
        self.wait = Wait(self._releasers, self._around, host, blocks=blocks)

    def _releasers(self) -> Iterator[object]:
        run = self._live.find(self._run_id)
        log = run.tree.log if run is not None else None
        if run is not None and log is not None:
            yield log.executions.get(run)

    def __enter__(self) -> None:
        self._live.listeners[self.wait] = self.wait.wake
        self.wait.begin()

    def __exit__(self, *_: object) -> None:
        end_wait(self.wait, None)
        self._live.listeners.pop(self.wait, None)
        if self._unwatch is not None:
            self._unwatch()

    def require(self) -> None:
        """Raise what keeps this thread or task from waiting here, or any longer."""
        if self._host.closing:
            raise BusClosedError(f"this bus is closing: the result of run {self._run_id} is not waited for")
        if threads.state.holds_lock():
            raise ConsumptionError(f"the result of run {self._run_id} can't be waited for in a hook or finaliser")
        if self._around is not None:
            self._around.check()
            if any(run.id == self._run_id for run in self._around.reach()):
                raise ConsumptionError(f"run {self._run_id} can't wait for its own result")
        if self._until is not None and remaining(self._until) == 0:
            raise ResultTimeoutError(f"run {self._run_id} has no result after {self._timeout} s")

    def pause(self) -> float | None:
        """How many seconds to wait before the next look; None: until it is woken.

        The store wakes it for what other processes do.
        """
        if self._unwatch is None and self._live.find(self._run_id) is None:
            store = self._store()
            self._unwatch = store.watch_log(store.root_of(self._run_id) or self._run_id, self.wait.wake)
            self.wait.wake()  # something may have happened before that
        return remaining(self._until)
