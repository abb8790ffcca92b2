"""The store."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from weakref import WeakSet

from crewbus.exceptions import CrewbusError, InputError, RecordingError, RunHeldError
from crewbus.stores import LogInfo, Store, StoredEvent
from crewbus_sqlite import _holder, _ids, _logs
from crewbus_sqlite._commit import Log, Notify
from crewbus_sqlite._database import Database, closed
from crewbus_sqlite._events import checked, encoded, insert
from crewbus_sqlite._holder import Holder, Holders
from crewbus_sqlite._logs import LogRow
from crewbus_sqlite._reader import Reader, latest_in
from crewbus_sqlite._writer import Writer

LEASE: Final = 15.0
BUSY: Final = 5.0
BACKLOG: Final = 256 * 1024 * 1024
LARGEST_BACKLOG: Final = 900 * 1024 * 1024
"""SQLite stores no event of 1 GB or more."""


class SQLiteStore(Store):
    """Records runs in the SQLite file at ``path``, which any number of processes may use at once.

    The file is created by the first event. ``lease``: for how many seconds a run is held by a process that can't be
    seen to live; ``busy``: for how many to wait for what other processes have locked; ``backlog``: how many bytes of
    events may wait to be written. Raises `InputError` for what can't be. A forked child may go on using the store: it
    holds nothing.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, lease: float = LEASE, busy: float = BUSY, backlog: int = BACKLOG
    ) -> None:
        if not (0 < lease < float("inf") and 0 <= busy < float("inf") and 0 < backlog <= LARGEST_BACKLOG):
            raise InputError(
                f"a store's lease is some seconds, its busy seconds or 0, its backlog 1 to {LARGEST_BACKLOG} bytes; "
                f"got lease={lease}, busy={busy}, backlog={backlog}"
            )
        self.path: Final = Path(path).absolute()
        self._lease = lease
        self._backlog = backlog
        self._database = Database(self.path, busy)
        self._reader = Reader(self._database)
        self._holders = Holders(self.path, lease)
        self._writer = Writer(self._database, self._holders, lease, backlog)
        self._closing = threading.Lock()
        self._closed = False
        with _forks.lock:
            _forks.stores.add(self)

    def __repr__(self) -> str:
        return f"<SQLiteStore {str(self.path)!r}>"

    # Writing

    def begin(self, root_id: str) -> int:
        self._require_open()
        root_id = _name(root_id)
        with self._database.reading() as connection:
            if connection is not None and _ids.log_of(connection, root_id) is not None:
                raise _logs.in_use(root_id)
        return self._writer.begin(root_id)

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        self._require_open()
        self._writer.append(root_id, epoch, event)

    def finish(self, root_id: str, epoch: int) -> None:
        self._require_open()
        if self._writer.has(root_id) or not self._is_sealed(root_id, epoch):
            self._writer.finish(root_id, epoch)

    def flush(self, timeout: float | None = None) -> None:
        self._require_open()
        self._writer.flush(timeout)

    def when_written(self, root_id: str, notify: Notify) -> None:
        self._require_open()
        self._writer.when_written(root_id, notify)

    # Reading

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        self._settle(root_id)
        return self._reader.events(root_id, after)

    def landmarks(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        self._settle(root_id)
        return self._reader.landmarks(root_id, after)

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        self._settle(root_id)
        return self._reader.marks(root_id)

    def event(self, root_id: str, seq: int) -> StoredEvent:
        self._settle(root_id)
        return self._reader.event(root_id, seq)

    def root_of(self, run_id: str) -> str | None:
        self._require_open()
        here = self._writer.root_of(run_id)
        with self._database.reading() as connection:
            log = _ids.log_of(connection, run_id) if connection is not None and _logs.storable(run_id) else None
            return here if connection is None or log is None else _logs.load(connection, log).root_id

    def roots(self) -> list[str]:
        self._settle()
        with self._database.reading() as connection:
            return [] if connection is None else [log.root_id for log in _logs.every(connection)]

    def info(self, root_id: str) -> LogInfo:
        self._settle(root_id)
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            holder = _holder.load(connection, log.holder)
            parent = None if log.parent is None else _logs.load(connection, log.parent).root_id
        return LogInfo(
            log.root_id,
            log.epoch,
            log.last,
            bool(log.sealed),
            holder and holder.name,
            holder and holder.until,
            holder is not None and self._holders.is_alive(holder),
            parent,
            None if parent is None else log.parent_at,
        )

    def forks(self, root_id: str) -> list[str]:
        self._settle(root_id)
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            return [fork.root_id for fork in _logs.forks_of(connection, log)]

    def lineage(self, root_id: str) -> list[str]:
        self._settle(root_id)
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            return [ancestor.root_id for ancestor in _logs.lineage(connection, log)]

    # Taking over

    def acquire(self, root_id: str) -> int:
        with self._changing(root_id) as (connection, found):
            self._require_free(connection, found)
            self._holders.renew(connection)
            log = found._replace(epoch=found.epoch + 1, sealed=0, holder=self._holders.own.token)
            _logs.save(connection, log)
            before = latest_in(connection, log)
        self._writer.adopt(Log(log.root_id, log.epoch, log.id, log.last, before))
        return log.epoch

    def release(self, root_id: str, epoch: int) -> None:
        self._require_open()
        if not self._writer.holds(root_id, epoch):
            return
        with self._changing(root_id) as (connection, log):
            if log.epoch == epoch:
                _logs.save(connection, log._replace(holder=None))
        self._writer.forget(root_id, epoch)

    def revoke(self, root_id: str) -> None:
        with self._changing(root_id) as (connection, log):
            _logs.save(connection, log._replace(holder=None))

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        fork_id, own = _name(fork_id), [checked(event) for event in events]
        if [event.seq for event in own] != list(range(at + 1, at + 1 + len(own))):
            raise RecordingError(f"run {fork_id}: what it begins with does not go on from event {at}")
        self._settle(fork_id)
        with self._changing(root_id) as (connection, log):
            if not 0 <= at <= log.last:
                raise RecordingError(f"run {root_id} has no event {at} to fork at: its last is {log.last}")
            before = latest_in(connection, log._replace(last=at))
            fork = _logs.create(connection, LogRow(0, fork_id, last=at + len(own), parent=log.id, parent_at=at))
            _logs.save(connection, log._replace(forks=log.forks + 1))
            insert(connection, encoded(fork.id, 0, own, before))

    def drop(self, root_id: str) -> None:
        with self._changing(root_id) as (connection, log):
            holder = _holder.load(connection, log.holder)
            if holder is not None and self._is_taken(holder):
                raise RecordingError(f"run {root_id} is live: its record can't be dropped")
            if log.forks:
                forks = ", ".join(fork.root_id for fork in _logs.forks_of(connection, log)[:3])
                raise RecordingError(f"run {root_id} is needed by what was forked from it: drop {forks} first")
            _logs.delete(connection, log)

    # Ending

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._writer.shut()
        try:
            self._writer.flush(None)
        finally:
            self._writer.close()
            resigned = False
            with suppress(CrewbusError):
                self._release_all()
                resigned = True
            self._holders.close(resigned=resigned)
            self._database.close()

    def after_fork(self) -> None:
        self._closing = threading.Lock()
        self._holders = Holders(self.path, self._lease)
        self._writer = Writer(self._database, self._holders, self._lease, self._backlog)

    def _release_all(self) -> None:
        """Release all that this store holds."""
        holder = self._holders.own
        with self._database.reading() as connection:
            if connection is None or not _holder.exists(connection, holder):
                return
        with self._database.writing() as connection:
            for log in _logs.held_by(connection, holder.token):
                _logs.save(connection, log._replace(holder=None))
            self._holders.resign(connection)

    def _settle(self, root_id: str | None = None) -> None:
        self._require_open()
        self._writer.settle(root_id)

    @contextmanager
    def _changing(self, root_id: str) -> Iterator[tuple[sqlite3.Connection, LogRow]]:
        """A transaction on a log, after all that was given to it; raises `RunNotFoundError`."""
        self._settle(root_id)
        if not self._database.exists:
            with self._database.reading() as connection:  # which creates no file
                _logs.find(connection, root_id)
        with self._database.writing() as connection:
            yield connection, _logs.find(connection, root_id)

    def _require_open(self) -> None:
        if self._closed:
            raise closed(self.path)

    def _is_sealed(self, root_id: str, epoch: int) -> bool:
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            return bool(log.sealed) and log.epoch == epoch

    def _is_taken(self, holder: Holder) -> bool:
        return self._holders.is_own(holder) or self._holders.is_alive(holder)

    def _require_free(self, connection: sqlite3.Connection, log: LogRow) -> None:
        holder = _holder.load(connection, log.holder)
        if holder is None or not self._is_taken(holder):
            return
        ends = datetime.fromtimestamp(holder.until, UTC).isoformat(" ", "seconds")
        raise RunHeldError(f"run {log.root_id} is alive: held by {holder.name}; its lease runs until {ends} at least")


def _name(run_id: str) -> str:
    if not _logs.storable(run_id):
        raise RecordingError(f"a run can't be named {run_id!r}: it holds half a character")
    return str.__str__(run_id)


class _Forks:
    """Has every store let go of its file while the process forks: what a child inherits open, SQLite can't share."""

    def __init__(self) -> None:
        self.stores: WeakSet[SQLiteStore] = WeakSet()
        self.lock = threading.RLock()
        self._resume: list[Callable[[], None]] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._begin_anew)

    def _before(self) -> None:
        self.lock.acquire()
        self._resume = [store._database.quiesce() for store in self.stores]

    def _after(self) -> None:
        for resume in self._resume:
            resume()
        self._resume = []
        self.lock.release()

    def _begin_anew(self) -> None:
        self._after()
        for store in list(self.stores):
            store.after_fork()


_forks: Final = _Forks()
