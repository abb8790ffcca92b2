"""The count of a command's runs, and what became of those that did not end well."""

from __future__ import annotations

import time
from typing import Any, Final

import attrs

from crewbus.cli.errors import core_of, one_line, type_of, where
from crewbus.cli.input import Place
from crewbus.exceptions import text_of

MOST: Final = 20
"""How many different faults are kept, and for each how many of its runs are named."""
_MESSAGE: Final = 2000  # characters of a fault's text


@attrs.define
class Fault:
    """One way in which runs failed or were cancelled: the same type, text and place."""

    state: str
    """"failed" or "cancelled"."""
    error: str | None
    """The type's qualified name; None where a run was cancelled by a word."""
    message: str
    at: str | None
    """``file:line`` where it was raised."""
    runs: int = 0
    seen: list[tuple[str, Place | None]] = attrs.field(factory=list)
    """Run id, and place of its input if it had one, of the first runs that ended so."""

    @classmethod
    def of(cls, state: str, what: BaseException | str) -> Fault:
        """A fault that an exception, or a word, tells of."""
        if isinstance(what, str):
            return cls(state, None, one_line(what, _MESSAGE), None)
        core = core_of(what)
        return cls(state, type_of(core), one_line(text_of(core), _MESSAGE), where(core))

    @property
    def key(self) -> tuple[str | None, ...]:
        """What faults have in common that are counted as one."""
        return self.state, self.error, self.message, self.at

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        seen = [{"run_id": run_id, "input": str(place) if place else None} for run_id, place in self.seen]
        return {**attrs.asdict(self, recurse=False), "seen": seen}


class Tally:
    """Counts: the runs that have ended are ``ok + failed + cancelled``. Nothing of a run that ended well is kept."""

    def __init__(self, planned: int) -> None:
        self.planned = planned
        self.ok = self.failed = self.cancelled = self.chunks = 0
        self.faults: dict[tuple[str | None, ...], Fault] = {}
        self.unnamed = 0
        """Runs whose fault is not among `faults`, since there were too many different ones."""
        self._began = time.perf_counter()
        self._ended: float | None = None

    @property
    def runs(self) -> int:
        """How many runs have ended."""
        return self.ok + self.failed + self.cancelled

    @property
    def not_started(self) -> int:
        """How many runs of those planned have not ended: none, unless the command was interrupted."""
        return self.planned - self.runs

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self._ended or time.perf_counter()) - self._began

    def stop(self) -> None:
        """Stop the clock."""
        self._ended = time.perf_counter()

    def fail(self, error: BaseException, run_id: str, place: Place | None) -> bool:
        """Count a run that failed with ``error``; returns whether it is the first to fail so."""
        self.failed += 1
        return self._note(Fault.of("failed", error), run_id, place)

    def cancel(self, cause: BaseException | str, run_id: str, place: Place | None) -> None:
        """Count a run that was cancelled, not by the command."""
        self.cancelled += 1
        self._note(Fault.of("cancelled", cause), run_id, place)

    def _note(self, fault: Fault, run_id: str, place: Place | None) -> bool:
        if fault.key not in self.faults and len(self.faults) == MOST:
            self.unnamed += 1
            return False
        known = self.faults.setdefault(fault.key, fault)
        known.runs += 1
        if len(known.seen) < MOST:
            known.seen.append((run_id, place))
        return known.runs == 1

    def as_json(self) -> dict[str, Any]:
        """The summary; what there is to say of faults and of runs not started only where there were any."""
        summary: dict[str, Any] = {
            "runs": self.runs,
            "ok": self.ok,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "chunks": self.chunks,
            "seconds": round(self.seconds, 3),
        }
        if self.not_started:
            summary["not_started"] = self.not_started
        if self.faults:
            summary["failures"] = [fault.as_json() for fault in self.faults.values()]
        if self.unnamed:
            summary["more_failures"] = self.unnamed
        return summary
