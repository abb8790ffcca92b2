"""The gate: what records a bus's runs and performs their steps is made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crewbus import stores
from crewbus._util import reentrant_lock
from crewbus.scopes import Deferring

if TYPE_CHECKING:
    from crewbus.durability.checkpoints import Checkpoints
    from crewbus.durability.recorder import Recorder
    from crewbus.durability.results import Results
    from crewbus.durability.step_runner import StepRunner
    from crewbus.events import Envelope
    from crewbus.scopes import Preparation, Run


class Recording:
    """What records the runs of a bus, and performs their steps."""

    __slots__ = ("checkpoints", "recorder", "results", "steps")

    def __init__(self, recorder: Recorder, checkpoints: Checkpoints, steps: StepRunner, results: Results) -> None:
        self.recorder = recorder
        self.checkpoints = checkpoints
        self.steps = steps
        self.results = results


class Gate:
    """Answers for a bus that records nothing, until something asks for its recorder: nothing was armed before that."""

    def __init__(self, make: Callable[[], Recording]) -> None:
        self._make = make
        self._recording: Recording | None = None
        self._lock = reentrant_lock()

    def opened(self) -> Recording:
        """What records; made by the first call."""
        if self._recording is None:
            with Deferring(self._lock), self._lock:
                if self._recording is None:
                    self._recording = self._make()
        return self._recording

    def _for(self, run: Run) -> Recorder | None:
        """The recorder, if it may have something to do for a run that starts."""
        opened = self.opened() if run.request.record else self._recording
        return opened.recorder if opened is not None else None

    def preparation(self, run: Run) -> Preparation | None:
        """See `Recorder.preparation`."""
        recorder = self._for(run)
        return recorder.preparation(run) if recorder is not None else None

    def records_root(self, run: Run) -> bool:
        """Whether ``run`` will be recorded if it starts now, as a root run."""
        recorder = self._for(run)
        return recorder is not None and (recorder.armed if run.request.record is None else run.request.record)

    def arm(self, run: Run) -> int | None:
        """See `Recorder.arm` and `Recorder.claim_nested`, whose result this returns."""
        recorder = self._for(run)
        if recorder is None:
            return None
        recorder.arm(run)
        return recorder.claim_nested(run)

    def refuse_recorded(self, run: Run) -> None:
        """See `Recorder.refuse_recorded`."""
        if self._recording is not None:
            self._recording.recorder.refuse_recorded(run)

    def complete(self, run: Run, end: Any, error: BaseException | None) -> None:
        """See `Results.complete`."""
        if run.recorded and self._recording is not None:
            self._recording.results.complete(run, end, error)

    def end_of(self, run_id: str) -> Envelope | None:
        """See `Recorder.end_of`."""
        return self._recording.recorder.end_of(run_id) if self._recording is not None else None

    def backlog(self) -> stores.Backlog:
        """See `Recorder.backlog`."""
        return self._recording.recorder.backlog() if self._recording is not None else stores.Backlog()

    async def catch_up(self, run: Run) -> None:
        """See `Disk.catch_up`."""
        if self._recording is not None:
            await self._recording.recorder.disk.catch_up(run)

    def close(self) -> None:
        """See `Recorder.close`."""
        if self._recording is not None:
            self._recording.recorder.close()

    def after_fork(self) -> None:
        """See `Recorder.after_fork`."""
        self._lock = reentrant_lock()
        if self._recording is not None:
            self._recording.recorder.after_fork()
