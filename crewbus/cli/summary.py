"""The summary of a command's runs: counts, and the different failures."""

from __future__ import annotations

import time
from typing import Any, Final

import attrs

from crewbus import Run
from crewbus._util import one_line
from crewbus.cli.errors import describe, raised_at, type_name, unwrap_group
from crewbus.cli.formatting import json_or_repr
from crewbus.cli.input import Location
from crewbus.exceptions import text_of

MAX_FAILURES: Final = 20
"""How many different failures are kept, and how many runs of each."""
_MAX_MESSAGE: Final = 2000


@attrs.define
class FailureGroup:
    """The runs that failed or were cancelled with the same type, message and place."""

    state: str
    """"failed" or "cancelled"."""
    error: str | None
    """The exception's type; None if a reason was given instead of an exception."""
    message: str
    at: str | None
    """``file:line`` where it was raised."""
    runs: int = 0
    seen: list[tuple[str, Location | None]] = attrs.field(factory=list)
    """The id and the input line of the first runs in the group."""

    @classmethod
    def from_cause(cls, state: str, cause: BaseException | str) -> FailureGroup:
        """A group without runs."""
        if isinstance(cause, str):
            return cls(state, None, one_line(cause, _MAX_MESSAGE), None)
        error = unwrap_group(cause)
        return cls(state, type_name(error), one_line(text_of(error), _MAX_MESSAGE), raised_at(error))

    @property
    def key(self) -> tuple[str | None, ...]:
        """What the failures of a group have in common."""
        return self.state, self.error, self.message, self.at

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        seen = [{"run_id": run_id, "input": str(location) if location else None} for run_id, location in self.seen]
        return {**attrs.asdict(self, recurse=False), "seen": seen}


class RunSummary:
    """Counts runs as they end. Of a run that finished nothing is kept, unless ``keep_results`` asks for it."""

    def __init__(self, planned: int, *, keep_results: bool = False) -> None:
        self.planned = planned
        self._results: list[dict[str, Any]] | None = [] if keep_results else None
        self.ok = self.failed = self.cancelled = self.chunks = 0
        self.suspended: list[str] = []
        """The ids of the runs that were suspended."""
        self.failures: dict[tuple[str | None, ...], FailureGroup] = {}
        self.omitted = 0
        """Runs whose failure is not in `failures`, which is full."""
        self._started = time.perf_counter()
        self._ended: float | None = None

    @property
    def runs(self) -> int:
        """How many runs have ended."""
        return self.ok + self.failed + self.cancelled + len(self.suspended)

    @property
    def not_started(self) -> int:
        """How many planned runs have not ended. Once all work has stopped, these were never started."""
        return self.planned - self.runs

    @property
    def seconds(self) -> float:
        """The time from the start until the clock was stopped, or until now."""
        return (self._ended or time.perf_counter()) - self._started

    def stop_clock(self) -> None:
        """Stop the clock."""
        self._ended = time.perf_counter()

    def add_failed(self, error: BaseException, run_id: str, location: Location | None) -> bool:
        """Count a run that failed with ``error``. Returns whether this failure is new."""
        self.failed += 1
        return self._add_failure(FailureGroup.from_cause("failed", error), run_id, location)

    def add_cancelled(self, cause: BaseException | str, run_id: str, location: Location | None) -> None:
        """Count a run that was cancelled by something other than the command."""
        self.cancelled += 1
        self._add_failure(FailureGroup.from_cause("cancelled", cause), run_id, location)

    def add_result(self, run: Run, result: Any, error: BaseException | None, location: Location | None) -> None:
        """Keep how a run ended, if results are kept."""
        if self._results is None:
            return
        found = {"run_id": run.id, "input": str(location) if location else None, "state": run.state}
        ending = {"result": json_or_repr(result)} if error is None else {"error": describe(error)}
        self._results.append({**found, **ending})

    def _add_failure(self, failure: FailureGroup, run_id: str, location: Location | None) -> bool:
        if failure.key not in self.failures and len(self.failures) == MAX_FAILURES:
            self.omitted += 1
            return False
        group = self.failures.setdefault(failure.key, failure)
        group.runs += 1
        if len(group.seen) < MAX_FAILURES:
            group.seen.append((run_id, location))
        return group.runs == 1

    def as_json(self) -> dict[str, Any]:
        """The counts; and suspended runs, failures and runs that were not started if there were any."""
        summary: dict[str, Any] = {
            "runs": self.runs,
            "ok": self.ok,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "chunks": self.chunks,
            "seconds": round(self.seconds, 3),
        }
        if self._results is not None:
            summary["results"] = self._results
        if self.suspended:
            summary["suspended"] = self.suspended
        if self.not_started:
            summary["not_started"] = self.not_started
        if self.failures:
            summary["failures"] = [failure.as_json() for failure in self.failures.values()]
        if self.omitted:
            summary["more_failures"] = self.omitted
        return summary
