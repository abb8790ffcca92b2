"""The store: what the contract asks, by way of the writer, the reader and the tables."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from crewbus import reentrant_lock
from crewbus.exceptions import CrewbusError, InputError, RecordingError, RunHeldError, RunNotFoundError
from crewbus.stores import Backlog, Claim, Claimed, LogFilter, LogInfo, LogPart, LogSummary, Posted, Store, StoredEvent
from crewbus.stores.claims import check_due, check_first_events
from crewbus.stores.liveness import clock
from crewbus.stores.watching import Watching
from crewbus_sqlite import _holders, _labels, _listing, _logs, _messages, _runs
from crewbus_sqlite._claims import Claims
from crewbus_sqlite._commit import Log, Notify
from crewbus_sqlite._database import Database, closed
from crewbus_sqlite._events import NONE, checked, insert_all, latest_of, load
from crewbus_sqlite._forks import forks
from crewbus_sqlite._holders import Holder, Holders
from crewbus_sqlite._logs import LogRow
from crewbus_sqlite._reader import Reader, latest_in
from crewbus_sqlite._settling import settle
from crewbus_sqlite._watching import PERIOD, Changes
from crewbus_sqlite._writer import Writer

LEASE: Final = 15.0
BUSY: Final = 60.0
BACKLOG: Final = 256 * 1024 * 1024
LARGEST_BACKLOG: Final = 900 * 1024 * 1024
"""SQLite can't store an event of 1 GB or more."""

Read = Callable[[str, int], Iterator[StoredEvent]]


class SQLiteStore(Store):
    """Records runs in the SQLite file at ``path``, which any number of processes may use at the same time.

    The first event creates the file. ``lease`` is the number of seconds for which a run stays held after its holder
    last renewed the lease, unless this host shows earlier that the holder is dead. ``busy`` is the number of seconds to
    wait for locks of other processes, and ``backlog`` the bytes of events that may wait to be written. Raises
    `InputError` if one of them is out of range. A forked child may use the store too: it starts without any run.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, lease: float = LEASE, busy: float = BUSY, backlog: int = BACKLOG
    ) -> None:
        if not (0 < lease < float("inf") and 0 <= busy < float("inf") and 0 < backlog <= LARGEST_BACKLOG):
            raise InputError(
                f"lease must be a number of seconds above 0, busy a number of seconds, and backlog 1 to "
                f"{LARGEST_BACKLOG} bytes; got lease={lease}, busy={busy}, backlog={backlog}"
            )
        self.path: Final = Path(path).absolute()
        self._lease = lease
        self._backlog = backlog
        self._database = Database(self.path, busy)
        self._reader = Reader(self._database)
        self._holders = Holders(self.path, lease)
        self._writer = Writer(self._database, self._holders, lease, backlog)
        self._claims = Claims()
        self._watching = self._new_watching()
        self._closing = reentrant_lock()
        self._closed = False
        forks.register(self)

    def __repr__(self) -> str:
        return f"<SQLiteStore {str(self.path)!r}>"

    def name_plugin(self, name: str) -> None:
        """Say in errors that the plugin of that ``name`` records here, and how to have it record elsewhere."""
        self._database.armed_by = name

    # Writing

    def begin(self, root_id: str) -> int:
        self._require_open()
        root_id = _name(root_id)
        with self._database.reading() as connection:
            if connection is not None and _runs.log_of(connection, root_id) is not None:
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

    def backlog(self) -> Backlog:
        return self._writer.backlog

    # Reading

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        return self._read(self._reader.events, root_id, after)

    def landmarks(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        return self._read(self._reader.landmarks, root_id, after)

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        self._write_out(root_id)
        return self._reader.marks(root_id)

    def event(self, root_id: str, seq: int) -> StoredEvent:
        self._require_open()
        if not self._writer.has_written(root_id, seq):  # nothing is waited for that is not asked for
            self._write_out(root_id)
        return self._reader.event(root_id, seq)

    def root_of(self, run_id: str) -> str | None:
        self._require_open()
        here = self._writer.root_of(run_id)
        with self._database.reading() as connection:
            log = _runs.log_of(connection, run_id) if connection is not None and _logs.storable(run_id) else None
            return here if connection is None or log is None else _logs.load(connection, log).root_id

    def roots(self) -> list[str]:
        self._write_out()
        with self._database.reading() as connection:
            return [] if connection is None else [log.root_id for log in _logs.every(connection)]

    def info(self, root_id: str) -> LogInfo:
        self._write_out(root_id)
        with self._database.reading() as connection:
            log = _logs.current(connection, root_id)
            assert connection is not None
            return _listing.infos(connection, [log], self._holders.is_alive)[0]

    def summary(self, root_id: str) -> LogSummary:
        self._write_out(root_id)
        with self._database.reading() as connection:
            log = _logs.current(connection, root_id)
            assert connection is not None
            if log.last < 0:
                raise RunNotFoundError(f"run {root_id} has no events")
            return _listing.summaries(connection, [log], self._holders.is_alive)[0]

    def find(self, query: LogFilter) -> Iterator[LogSummary]:
        self._write_out()
        return _listing.find(self._database, query, lambda: self._holders.is_alive)

    def forks(self, root_id: str) -> list[str]:
        self._write_out(root_id)
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            return [fork.root_id for fork in _logs.forks_of(connection, log)]

    def lineage(self, root_id: str) -> list[str]:
        self._write_out(root_id)
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            return [ancestor.root_id for ancestor in _logs.lineage(connection, log)]

    def parts(self, root_id: str) -> list[LogPart]:
        self._write_out(root_id)
        with self._database.reading() as connection:
            log = _logs.current(connection, root_id)
            assert connection is not None
            return [LogPart(row.root_id, part.first, part.last) for row, part in _logs.parts(connection, log)]

    def shared(self, root_id: str) -> int:
        self._write_out(root_id)
        with self._database.reading() as connection:
            return _logs.find(connection, root_id).parent_at

    # Leases and forks

    def acquire(self, root_id: str) -> int:
        with self._changing(root_id, synced=False) as (connection, found):  # a power cut ends this process too
            self._require_not_held(connection, found)
            renewed = self._holders.renew(connection)
            log = self._take(connection, found)
        self._writer.adopt(log, renewed)
        return log.epoch

    def _take(self, connection: sqlite3.Connection, found: LogRow) -> Log:
        held_at = clock()
        found = settle(connection, found)
        row = found.taken(self._holders.own.token)
        _change(connection, found, row)
        return Log(row.root_id, row.epoch, held_at, row.id, row.last, row.last, latest_in(connection, row, row.last))

    def release(self, root_id: str, epoch: int, until: float | None = None) -> None:
        self._require_open()
        due = _due(root_id, until)
        if not self._writer.holds(root_id, epoch):
            return

        def end_lease(connection: sqlite3.Connection) -> None:
            log = _logs.find(connection, root_id)
            if log.epoch == epoch:
                log = settle(connection, log)
                _change(connection, log, log._replace(holder=None, due=due if log.messages == log.known else None))

        self._require_file_of(root_id)
        self._writer.change(end_lease)
        self._writer.forget(root_id, epoch)

    def revoke(self, root_id: str) -> None:
        with self._changing(root_id) as (connection, log):
            _change(connection, log, log._replace(holder=None))

    def has_lease(self, root_id: str, epoch: int) -> bool:
        return self._writer.has_lease(root_id, epoch)

    def confirm(self, root_id: str, epoch: int) -> None:
        self._require_open()
        self._writer.confirm(root_id, epoch)

    def on_lost(self, notify: Callable[[str, int, CrewbusError], object]) -> Callable[[], None]:
        return self._writer.lost.add(notify)

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        fork_id, own = _name(fork_id), [checked(event) for event in events]
        if [event.seq for event in own] != list(range(at + 1, at + 1 + len(own))):
            raise RecordingError(f"run {fork_id}: its first events do not continue from event {at}")
        self._write_out()  # logs are listed in the order in which they were begun
        with self._changing(root_id) as (connection, found):
            log = settle(connection, found)
            if not 0 <= at <= log.last:
                raise RecordingError(f"run {root_id} has no event {at} to fork at: its last one is {log.last}")
            base = _logs.owner(connection, log, at)
            row, event = load(connection, base.id, at)
            when = _logs.time_of(event)
            shared = LogRow(0, fork_id, 0, at, 0, None, log.id, at, 0, origin=log.origin, begun=when, at=when)
            fork = _logs.create(connection, _logs.based(connection, shared, base).after(own))
            _logs.save(connection, log._replace(forks=log.forks + 1))
            insert_all(connection, fork.id, own, latest_of(row)[1])
            _labels.add_to_all(connection, fork)

    # Work that anyone may take, and messages to it

    def create(self, root_id: str, events: Sequence[StoredEvent], until: float | None = None) -> None:
        root_id, own, due = _name(root_id), [checked(event) for event in events], _due(root_id, until)
        check_first_events(root_id, own)

        def add(connection: sqlite3.Connection) -> None:
            log = _logs.create(connection, LogRow(0, root_id, due=due).after(own))
            insert_all(connection, log.id, own, NONE)
            for run_id in {event.run_id for event in own}:
                _runs.claim(connection, run_id, log.id)
            _labels.add_to_all(connection, log)

        self._require_open()
        self._writer.change(add)

    def claim(self, claim: Claim) -> list[Claimed]:
        self._write_out()
        with self._database.reading() as connection:  # who finds nothing keeps nobody from writing
            if connection is None or not self._find_for(claim, connection):
                return []
        with self._database.writing(synced=False) as connection:  # a power cut ends this process too
            found = self._find_for(claim, connection)
            renewed = self._holders.renew(connection) if found else 0.0
            logs = [self._take(connection, log) for log in found]
        for log in logs:
            self._writer.adopt(log, renewed)
        return [Claimed(log.root_id, log.epoch) for log in logs]

    def _find_for(self, claim: Claim, connection: sqlite3.Connection) -> list[LogRow]:
        return self._claims.find(connection, claim, time.time(), self._is_held)

    def post(self, root_id: str, channel: str, data: bytes, key: str | None = None) -> int:
        _messages.check(root_id, channel, key)
        data = bytes(data)

        def add(connection: sqlite3.Connection) -> int:
            log = _logs.find(connection, root_id)
            number = None if key is None else _messages.find(connection, log, channel, key)
            if number is not None:
                return number
            message = Posted(log.messages, channel, data, key, time.time())
            _change(connection, log, _messages.add(connection, log, message))
            return message.number

        self._require_file_of(root_id)
        return self._writer.change(add)

    def posted(self, root_id: str, after: int = -1) -> list[Posted]:
        self._write_out(root_id)
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            assert connection is not None
            return _messages.load(connection, log, after)

    def mail(self, after: Mapping[str, int]) -> dict[str, list[Posted]]:
        self._require_open()
        ids = {log.root_id: log.id for log in self._writer.held() if log.id is not None}
        found = dict[str, list[Posted]]()
        with self._database.reading() as connection:
            if connection is None:
                return found
            here = {log: root_id for root_id in after if (log := ids.get(root_id))}
            others = [root_id for root_id in after if root_id not in ids]
            some = _messages.having(connection, [(log, after[root_id]) for log, root_id in here.items()])
            for root_id in [*others, *(here[log] for log in some)]:
                with suppress(CrewbusError):  # it is not there, or damaged: `posted` says so
                    if messages := _messages.load(connection, _logs.find(connection, root_id), after[root_id]):
                        found[root_id] = messages
        return found

    def watch(self, notify: Callable[[], object]) -> Callable[[], None]:
        self._require_open()
        return self._watching.add(notify)

    def drop(self, root_id: str) -> None:
        with self._changing(root_id) as (connection, log):
            holder = _holders.load(connection, log.holder)
            if holder is not None and self._is_held(holder):
                raise RecordingError(f"run {root_id} is live: its record can't be dropped")
            if log.forks:
                forks = ", ".join(fork.root_id for fork in _logs.forks_of(connection, log)[:3])
                raise RecordingError(f"run {root_id} is needed by its forks: drop {forks} first")
            _labels.forget(connection, log)
            _logs.delete(connection, log)

    # Closing and forking

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._watching.close()
        self._writer.stop_accepting()
        try:
            self._writer.settle()
            self._writer.flush(None)
        finally:
            self._writer.close()
            resigned = False
            if not self._writer.is_failing:  # it would fail as well, after as long a wait
                with suppress(CrewbusError):
                    self._release_all()
                    resigned = True
            self._holders.close(resigned=resigned)
            self._database.close()

    def before_fork(self) -> Callable[[], None]:
        """Close the file, and keep all threads from it until the returned function is called."""
        return self._database.quiesce()

    def after_fork(self) -> None:
        self._closing = reentrant_lock()
        self._holders = Holders(self.path, self._lease)
        self._writer = Writer(self._database, self._holders, self._lease, self._backlog)
        self._watching = self._new_watching()

    def _new_watching(self) -> Watching:
        return Watching(Changes(self._database).look, PERIOD, f"crewbus watch {self.path.name}")

    def _release_all(self) -> None:
        """Release all that this store holds."""
        holder = self._holders.own
        with self._database.reading() as connection:
            if connection is None or not _holders.exists(connection, holder):
                return
        with self._database.writing() as connection:
            for log in _logs.held_by(connection, holder.token):
                _change(connection, log, log._replace(holder=None))
            self._holders.resign(connection)

    def _read(self, read: Read, root_id: str, after: int) -> Iterator[StoredEvent]:
        self._require_open()
        if self._writer.has_written(root_id, after + 1):
            return self._read_on_disk_first(read, root_id, after)
        self._write_out(root_id)
        return read(root_id, after)

    def _read_on_disk_first(self, read: Read, root_id: str, after: int) -> Iterator[StoredEvent]:
        """Wait for what is queued only when all before it was taken: a reader of earlier events does not wait."""
        for event in read(root_id, after):
            after = event.seq
            yield event
        self._write_out(root_id)
        yield from read(root_id, after)

    def _write_out(self, root_id: str | None = None) -> None:
        self._require_open()
        self._writer.wait_for(root_id)

    @contextmanager
    def _changing(self, root_id: str, *, synced: bool = True) -> Iterator[tuple[sqlite3.Connection, LogRow]]:
        """A transaction on a log, after all earlier writes to it; raises `RunNotFoundError`."""
        self._require_file_of(root_id)
        self._write_out(root_id)
        with self._database.writing(synced=synced) as connection:
            yield connection, _logs.find(connection, root_id)

    def _require_file_of(self, root_id: str) -> None:
        """Raise `RunNotFoundError` if there is no file that could hold a log: it is not created for a question."""
        self._require_open()
        if not self._database.exists:
            self._write_out(root_id)
            with self._database.reading() as connection:
                _logs.find(connection, root_id)

    def _require_open(self) -> None:
        if self._closed:
            raise closed(self.path)

    def _is_sealed(self, root_id: str, epoch: int) -> bool:
        with self._database.reading() as connection:
            log = _logs.find(connection, root_id)
            return bool(log.sealed) and log.epoch == epoch

    def _is_held(self, holder: Holder) -> bool:
        return self._holders.is_own(holder) or self._holders.is_alive(holder)

    def _require_not_held(self, connection: sqlite3.Connection, log: LogRow) -> None:
        holder = _holders.load(connection, log.holder)
        if holder is None or not self._is_held(holder):
            return
        ends = datetime.fromtimestamp(holder.until, UTC).isoformat(" ", "seconds")
        until = f"its lease runs until {ends} at least" if holder.has_lease else "its process is alive on this host"
        raise RunHeldError(f"run {log.root_id} is alive: held by {holder.name}; {until}")


def _change(connection: sqlite3.Connection, before: LogRow, after: LogRow) -> None:
    _logs.save(connection, after)
    if before.last >= 0:
        _labels.update(connection, before, after)


def _due(root_id: str, until: float | None) -> float | None:
    check_due(root_id, until)
    return None if until is None else float(until) + 0.0  # SQLite has no negative zero


def _name(run_id: str) -> str:
    if not _logs.storable(run_id):
        raise RecordingError(f"a run can't be named {run_id!r}: it contains a lone surrogate")
    return str.__str__(run_id)
