"""The contract of a backend: what a store keeps, and what it promises.

Whoever writes one subclasses `crewbus.testing.StoreContract`, which holds it to every sentence of this module.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from crewbus.events.landmarks import LANDMARKS, MARKS
from crewbus.exceptions import RecordingError, RunNotFoundError

__all__ = ["LogInfo", "Store", "StoredEvent"]


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


class LogInfo(NamedTuple):
    """How a log stands."""

    root_id: str
    epoch: int
    """How often it was taken: of `Store.begin` and each `Store.acquire` since; 0 for a fork that nobody took yet."""
    last: int
    """The number of its last event; -1 where there is none."""
    sealed: bool
    """Whether `Store.finish` was called, and no `Store.acquire` since."""
    holder: str | None = None
    """Who holds it, in words such as ``process 12 on host``; None: nobody."""
    until: float | None = None
    """When the lease ends unless it is renewed, in seconds since the epoch (UTC); None: never, or nobody holds it."""
    alive: bool = False
    """Whether somebody holds it whose lease has not ended, and who is not known to be dead."""
    parent: str | None = None
    """The root run that it was forked from."""
    parent_at: int | None = None
    """The number of the last event that it shares with that."""


class Store(abc.ABC):
    """Append-only logs, one per root run, from any number of threads.

    A log is opened by `begin`, grows by `append` in the order of ``seq`` and is sealed by `finish`. What
    `flush` has returned for is durable in the sense of the store. Every method raises
    `crewbus.RecordingError` when it can't do what it says; none fails in silence.

    One at a time writes a log: `begin` and `acquire` give out an epoch together with a lease, which the store renews
    by itself while its process lives. Whoever comes with an older epoch is refused with `crewbus.FencedError`.
    What a method reads it sees as it was after all that this store was given before.
    """

    @abc.abstractmethod
    def begin(self, root_id: str) -> int:
        """Open a log and return its epoch, from 1; raises `crewbus.RunIdInUseError` if the store has that run."""

    @abc.abstractmethod
    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        """Add the next event of a log, without waiting for it to be durable.

        A repeated ``seq`` is ignored; a gap, an old ``epoch`` or a log that is not open raises
        `crewbus.RecordingError` and leaves the log as it was.
        """

    @abc.abstractmethod
    def finish(self, root_id: str, epoch: int) -> None:
        """Seal a log, and let go of its lease: its root run and all runs in it have ended."""

    @abc.abstractmethod
    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        """The events of a log numbered above ``after``, in order; raises `crewbus.RunNotFoundError`.

        Of a fork, those that it shares come first, as they are in the log that they were written to. Raises
        `crewbus.CorruptRecordError` where the bytes are not those that were written, or some are missing.
        """

    @abc.abstractmethod
    def root_of(self, run_id: str) -> str | None:
        """The root run in whose log ``run_id`` is recorded, or None."""

    @abc.abstractmethod
    def roots(self) -> list[str]:
        """The ids of all recorded root runs, oldest first."""

    @abc.abstractmethod
    def drop(self, root_id: str) -> None:
        """Forget a log; raises `crewbus.RecordingError` while it is alive, or a fork needs it."""

    # What a store for runs that are resumed does besides

    def info(self, root_id: str) -> LogInfo:
        """How a log stands; raises `crewbus.RunNotFoundError`."""
        raise self._lacking("info")

    def acquire(self, root_id: str) -> int:
        """Take a log to go on with it, open or sealed, and return the next epoch.

        Whoever wrote it before is fenced. Raises `crewbus.RunNotFoundError`, and `crewbus.RunHeldError` while it
        is alive, also if this very store holds it.
        """
        raise self._lacking("acquire")

    def release(self, root_id: str, epoch: int) -> None:
        """Let go of a log without sealing it, so that it can be acquired at once; nothing for who is fenced."""
        raise self._lacking("release")

    def revoke(self, root_id: str) -> None:
        """End the lease on a log, whoever holds it: they are fenced by the next `acquire`."""
        raise self._lacking("revoke")

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        """Make ``fork_id`` a log that shares the events of ``root_id`` up to number ``at``, and that nobody holds.

        ``events`` are the first of its own, and go on from there: it has them from the beginning, or is not made. It
        takes no longer for a long log. Raises `crewbus.RunNotFoundError`, `crewbus.RunIdInUseError`, and
        `crewbus.RecordingError` if there is no event ``at``, or ``events`` do not go on from it.
        """
        raise self._lacking("fork")

    def forks(self, root_id: str) -> list[str]:
        """The ids of the logs forked from this one, oldest first."""
        return [root for root in self.roots() if self.info(root).parent == root_id]

    def lineage(self, root_id: str) -> list[str]:
        """The root runs that a log descends from by forks, the nearest first."""
        found: list[str] = []
        if type(self).info is Store.info:  # it knows of no forks
            return found
        parent = self.info(root_id).parent
        while parent is not None:
            found.append(parent)
            parent = self.info(parent).parent
        return found

    def event(self, root_id: str, seq: int) -> StoredEvent:
        """One event of a log; raises `crewbus.RunNotFoundError` where there is no such log or number."""
        for stored in self.read(root_id, seq - 1):
            if stored.seq == seq:
                return stored
            break
        raise RunNotFoundError(f"run {root_id} has no event {seq}")

    def landmarks(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        """As `read`, of the types that `LANDMARKS` names only."""
        return (stored for stored in self.read(root_id, after) if stored.name in LANDMARKS)

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        """The events of the types that `MARKS` names, the last first."""
        return reversed([stored for stored in self.landmarks(root_id) if stored.name in MARKS])

    def when_written(self, root_id: str, notify: Callable[[BaseException | None], None]) -> None:
        """Call ``notify``, once, from whichever thread, when all that was appended to a log before is durable.

        It gets None, or what went wrong. It must neither block nor raise.
        """
        try:
            self.flush()
        except Exception as error:
            notify(error)
        else:
            notify(None)

    def _lacking(self, method: str) -> RecordingError:
        return RecordingError(f"{type(self).__name__} has no {method}(): its runs can't be resumed, forked or followed")

    def flush(self, timeout: float | None = None) -> None:  # noqa: B027 - a store may have nothing to do
        """Return when everything appended before is written; raises `crewbus.FlushTimeoutError`.

        It raises too what could not be written since it was called last; what it can be tried again with is kept.
        """

    def close(self) -> None:  # noqa: B027
        """Flush, and release what the store holds, the leases on logs that are still open too; again does nothing.

        A store that has to release anything refuses what it is asked afterwards.
        """

    def after_fork(self) -> None:  # noqa: B027
        """Called in a forked child: take new locks, hold nothing, and write nothing of what the parent had begun."""
