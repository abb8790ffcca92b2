"""Cancelling runs by their ids, wherever they are."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from crewbus import durability, records
from crewbus._util import checked_run_id
from crewbus.exceptions import RunEndedError, RunHeldError
from crewbus.scopes import Stop

if TYPE_CHECKING:
    from crewbus.bus.live_runs import LiveRuns
    from crewbus.durability import Gate
    from crewbus.scopes import Run
    from crewbus.stores import Store

_everywhere: Final[weakref.WeakSet[Cancellation]] = weakref.WeakSet()
"""Those of all buses of this process."""


class Cancellation:
    """Cancels a run: in this process, where another one holds it, or where nobody does. See `Bus.cancel`."""

    def __init__(self, gate: Gate, live: LiveRuns) -> None:
        self._gate = gate
        self._live = live
        _everywhere.add(self)

    def cancel(self, run_id: str, reason: str) -> str:
        """See `Bus.cancel`."""
        reason = Stop.cancelling(reason).reason
        run = self._live.find(checked_run_id(run_id))
        if run is not None:
            is_here = not run.recorded or self._holds(run)  # before it is told: it may end at once
            run.cancel(reason)
            if is_here:
                return "running"
        while True:
            state = self._cancel_recorded(run_id, reason)
            if state is not None:
                return state

    def _cancel_recorded(self, run_id: str, reason: str) -> str | None:
        """The state that it was in; None: that has just changed."""
        recorder = self._gate.opened().recorder
        store = recorder.store
        run = next((run for one in list(_everywhere) if (run := one.recorded_here(run_id, store)) is not None), None)
        if run is not None:
            run.cancel(reason)
            return "running"
        records.require_root(store, run_id)
        summary = store.summary(run_id)
        if summary.has_ended:
            return summary.state
        if summary.info.alive:
            with suppress(RunEndedError):
                store.post(run_id, durability.CHANNEL, durability.request(reason, summary.info.epoch))
                return "running"
        else:
            with suppress(RunHeldError):  # a process has taken it meanwhile
                return summary.state if durability.end_left_off(recorder, run_id, reason) else None
        return None

    def recorded_here(self, run_id: str, store: Store) -> Run | None:
        """The live run of that id, if it is recorded in this store."""
        run = self._live.find(run_id)
        if run is None or not run.recorded or self._gate.opened().recorder.store is not store:
            return None
        return run if self._holds(run) else None

    def _holds(self, run: Run) -> bool:
        """Whether this process holds a recorded run that is live here, as far as it knows."""
        return self._gate.opened().recorder.store.has_lease(run.root.id, run.epoch or 1)
