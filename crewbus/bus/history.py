"""The records of a bus, and a record told again to its handlers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from crewbus.durability.resume import Resumption
from crewbus.events import RunStarted
from crewbus.records.checkpoint import Checkpoint
from crewbus.records.diff import Divergence
from crewbus.records.info import RunInfo
from crewbus.records.library import Records
from crewbus.scopes.run import RecordingRequest, Run

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus


class History(Resumption):
    """Delegates to `Records`."""

    def __init__(self, unscoped: str) -> None:
        super().__init__(unscoped)
        self.records = Records(lambda: self.store, self.decode, self._coder)

    def recorded_runs(self, limit: int | None = None) -> list[RunInfo]:
        """The recorded root runs, the newest first; at most ``limit`` of them."""
        return self.records.list(limit)

    def recorded_run(self, run_id: str) -> RunInfo:
        """Describe a recorded root run; raises `RunNotFoundError` if there is none of that id."""
        return self.records.info(run_id)

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        """The checkpoints of a recorded run that a resume or fork can start from, in order."""
        return self.records.checkpoints(run_id)

    def export(self, run_id: str, path: str | Path) -> int:
        """Write the record of a root run to a file, as JSON Lines; see `Records.export`."""
        return self.records.export(run_id, path)

    def diff(self, one: str, other: str) -> Divergence | None:
        """Where two recorded runs diverge first; see `Records.diff`."""
        return self.records.diff(one, other)

    def prune(self, keep: int | None = None, older_than: float | None = None, dry_run: bool = False) -> list[str]:
        """Drop recorded root runs for good, and return their ids; see `Records.prune`."""
        return self.records.prune(keep, older_than, dry_run)

    def replay(self, run_id: str) -> int:
        """Tell handlers and observers again what is recorded of a run, in order, marked ``replayed``.

        Returns how many events that were. Nothing is recorded or streamed. Raises `RunNotFoundError`, `DecodeError`.
        """
        runs: dict[str, Run] = {}
        told = 0
        for envelope in self.record_of(run_id):
            event = envelope.event
            if isinstance(event, RunStarted) and envelope.run_id is not None:
                runs[envelope.run_id] = self._told_of(envelope.run_id, event, runs)
            run = runs.get(envelope.run_id or "")
            plan = self._plan_of(event)
            for worker in plan.queues:
                worker.push(self, run, envelope)
            self._deliver(plan, run, envelope)
            for worker in plan.queues:
                worker.wait_for_room()
            told += 1
        return told

    def _told_of(self, run_id: str, started: RunStarted, runs: dict[str, Run]) -> Run:
        run = Run(cast("Bus", self), started.name, run_id, started.tags, RecordingRequest())
        run.parent = runs.get(started.parent_run or "")
        run.root = run.parent.root if run.parent is not None else run
        run.state = "finished"
        return run
