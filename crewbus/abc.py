"""The contract of a backend: what a store keeps, and what it promises."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Store", "StoredEvent"]


class StoredEvent(NamedTuple):
    """One event of a record, encoded: a row, as a backend stores it.

    ``name`` and ``version`` identify the event type; ``data`` is its JSON in UTF-8; ``source`` names who
    emitted it. The rest is as in `crewbus.Envelope`.
    """

    run_id: str
    seq: int
    parent: str | None
    at: float
    source: str | None
    attempt: int
    name: str
    version: int
    data: bytes


class Store(abc.ABC):
    """Append-only logs, one per root run, from any number of threads.

    A log is opened by `begin`, grows by `append` in the order of ``seq`` and is sealed by `finish`. What
    `flush` has returned for is durable in the sense of the store. Every method raises
    `crewbus.RecordingError` when it can't do what it says; none fails in silence.
    """

    @abc.abstractmethod
    def begin(self, root_id: str) -> int:
        """Open a log and return its epoch, from 1; raises `crewbus.RunIdInUseError` if the store has that run."""

    @abc.abstractmethod
    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        """Add the next event of a log.

        A repeated ``seq`` is ignored; a gap, an old ``epoch`` or a log that is not open raises
        `crewbus.RecordingError` and leaves the log as it was.
        """

    @abc.abstractmethod
    def finish(self, root_id: str, epoch: int) -> None:
        """Seal a log: its root run and all runs in it have ended."""

    @abc.abstractmethod
    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        """The events of a log numbered above ``after``, in order; raises `crewbus.RunNotFoundError`."""

    @abc.abstractmethod
    def root_of(self, run_id: str) -> str | None:
        """The root run in whose log ``run_id`` is recorded, or None."""

    @abc.abstractmethod
    def roots(self) -> list[str]:
        """The ids of all recorded root runs, oldest first."""

    @abc.abstractmethod
    def drop(self, root_id: str) -> None:
        """Forget a finished log; raises `crewbus.RecordingError` while it is open."""

    def flush(self, timeout: float | None = None) -> None:  # noqa: B027 - a store may have nothing to do
        """Return when everything appended before is written; raises `crewbus.FlushTimeoutError`."""

    def close(self) -> None:  # noqa: B027
        """Flush, and release what the store holds."""

    def after_fork(self) -> None:  # noqa: B027
        """Called in a forked child: take new locks, and write nothing of what the parent had begun."""
