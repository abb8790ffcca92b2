"""The contract of a backend: what a store keeps, and what it promises.

To test a store, subclass `crewbus.testing.StoreContract`, which checks every sentence of this module.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from crewbus.events import LANDMARKS, MARKS
from crewbus.exceptions import RecordingError, RunNotFoundError

__all__ = ["LogInfo", "Store", "StoredEvent"]


class StoredEvent(NamedTuple):
    """One encoded event of a record: a row, as a backend stores it.

    ``name`` and ``version`` identify the event type, ``data`` is the event's JSON in UTF-8, and ``source`` is the
    name of the emitter. The other fields are those of `crewbus.Envelope`.
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
    """The state of a log."""

    root_id: str
    epoch: int
    """How many times the log was taken, by `Store.begin` and each `Store.acquire`; 0 for an untaken fork."""
    last: int
    """The number of its last event; -1 if it has none."""
    sealed: bool
    """Whether `Store.finish` was called, and `Store.acquire` was not called since."""
    holder: str | None = None
    """A description of the holder, such as ``process 12 on host``; None if the log has no holder."""
    until: float | None = None
    """When the lease ends unless it is renewed, in seconds since the epoch (UTC); None if it never ends, or there is no
    holder."""
    alive: bool = False
    """Whether the log has a holder whose lease has not ended and who is not known to be dead."""
    parent: str | None = None
    """The root run that the log was forked from, or None."""
    parent_at: int | None = None
    """The number of the last event that a fork shares with its parent, or None."""


class Store(abc.ABC):
    """Append-only logs, one per root run. All methods may be called from any thread.

    `begin` opens a log, `append` adds events to it in the order of ``seq``, and `finish` seals it. Once `flush`
    returns, everything appended before is durable, in the sense that the store documents. A method that can't do its
    work raises `crewbus.RecordingError`; none fails silently.

    A log has one holder at a time. `begin` and `acquire` return an epoch and start a lease, which the store renews
    while its process lives. A write with an older epoch raises `crewbus.FencedError`. Reads observe every write made
    earlier through this store.
    """

    @abc.abstractmethod
    def begin(self, root_id: str) -> int:
        """Open a new log and return its epoch, 1; raises `crewbus.RunIdInUseError` if that run is recorded already."""

    @abc.abstractmethod
    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        """Append the next event to a log, without waiting until it is durable.

        An event whose ``seq`` was appended before is ignored. A gap in ``seq``, an old ``epoch`` or a log that is not
        open raises `crewbus.RecordingError` and leaves the log unchanged.
        """

    @abc.abstractmethod
    def finish(self, root_id: str, epoch: int) -> None:
        """Seal a log and end its lease: its root run and all runs nested in it have ended."""

    @abc.abstractmethod
    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        """Iterate over the events of a log with numbers above ``after``, in order.

        The events that a fork shares with its parent come first. Raises `crewbus.RunNotFoundError`, and
        `crewbus.CorruptRecordError` where an event is missing or its bytes have changed.
        """

    @abc.abstractmethod
    def root_of(self, run_id: str) -> str | None:
        """Return the id of the root run whose log contains ``run_id``, or None."""

    @abc.abstractmethod
    def roots(self) -> list[str]:
        """Return the ids of all recorded root runs, oldest first."""

    @abc.abstractmethod
    def drop(self, root_id: str) -> None:
        """Delete a log; raises `crewbus.RecordingError` while it is alive, or while a fork shares its events."""

    # Optional: a store without these records runs, but can't resume, fork or follow them

    def info(self, root_id: str) -> LogInfo:
        """Return the state of a log; raises `crewbus.RunNotFoundError`."""
        raise self._unsupported("info")

    def acquire(self, root_id: str) -> int:
        """Take over a log, open or sealed, and return its next epoch. The previous holder is fenced.

        Raises `crewbus.RunNotFoundError`, and `crewbus.RunHeldError` while the log is alive, even if this store
        holds it.
        """
        raise self._unsupported("acquire")

    def release(self, root_id: str, epoch: int) -> None:
        """End the lease on a log without sealing it, so that it can be acquired. A fenced holder's call is ignored."""
        raise self._unsupported("release")

    def revoke(self, root_id: str) -> None:
        """End the lease on a log for its current holder, which is fenced by the next `acquire`."""
        raise self._unsupported("revoke")

    def has_lease(self, root_id: str, epoch: int) -> bool:
        """Whether nobody can have taken a log since it was given with ``epoch``, as far as this store knows by itself.

        It answers at once, from its own clock and memory, and asks nobody; `revoke` does not count. False for a log
        that is known to be lost, and once the lease may have ended: `confirm` finds out.
        """
        return True

    def confirm(self, root_id: str, epoch: int) -> None:
        """Return when this store certainly holds a log, and renew its lease.

        Raises `crewbus.FencedError` if the log was taken over, and `crewbus.RunIdInUseError` if another store began it
        first.
        """
        self.flush()

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        """Create the log ``fork_id``, without a holder, which shares the events of ``root_id`` up to number ``at``.

        ``events`` are the fork's first own events, numbered from ``at + 1``; the log and these events are created
        together or not at all. The time this takes does not depend on the length of the log. Raises
        `crewbus.RunNotFoundError`, `crewbus.RunIdInUseError`, and `crewbus.RecordingError` if there is no event
        ``at``, or ``events`` do not continue from it.
        """
        raise self._unsupported("fork")

    def forks(self, root_id: str) -> list[str]:
        """Return the ids of the logs forked from this one, oldest first."""
        return [root for root in self.roots() if self.info(root).parent == root_id]

    def lineage(self, root_id: str) -> list[str]:
        """Return the root runs that a log descends from by forks, nearest first."""
        found: list[str] = []
        if type(self).info is Store.info:  # this store has no forks
            return found
        parent = self.info(root_id).parent
        while parent is not None:
            found.append(parent)
            parent = self.info(parent).parent
        return found

    def event(self, root_id: str, seq: int) -> StoredEvent:
        """Return one event of a log; raises `crewbus.RunNotFoundError` if there is no such log or number."""
        for stored in self.read(root_id, seq - 1):
            if stored.seq == seq:
                return stored
            break
        raise RunNotFoundError(f"run {root_id} has no event {seq}")

    def landmarks(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        """Like `read`, but only the events whose types are in `LANDMARKS`."""
        return (stored for stored in self.read(root_id, after) if stored.name in LANDMARKS)

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        """Iterate over the events whose types are in `MARKS`, last first."""
        return reversed([stored for stored in self.landmarks(root_id) if stored.name in MARKS])

    def when_written(self, root_id: str, notify: Callable[[BaseException | None], None]) -> None:
        """Call ``notify`` once, from any thread, when everything appended to a log before is durable.

        ``notify`` receives None, or the error that prevented it. It must neither block nor raise.
        """
        try:
            self.flush()
        except Exception as error:
            notify(error)
        else:
            notify(None)

    def _unsupported(self, method: str) -> RecordingError:
        return RecordingError(f"{type(self).__name__} has no {method}(): its runs can't be resumed, forked or followed")

    def flush(self, timeout: float | None = None) -> None:  # noqa: B027 - a store may have nothing to do
        """Return when everything appended before is durable.

        Raises `crewbus.FlushTimeoutError` after ``timeout`` seconds (None: wait without limit), and the error of any
        write that failed since the last call. Events that can be written later are kept and tried again.
        """

    def close(self) -> None:  # noqa: B027
        """Flush, end the leases on logs that are still open, and release all resources. A second call does nothing.

        A store that releases resources raises `crewbus.RecordingError` from every later call.
        """

    def after_fork(self) -> None:  # noqa: B027
        """Called in a forked child: create new locks, hold no log, and write nothing that the parent appended."""
