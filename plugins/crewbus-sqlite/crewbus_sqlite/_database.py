"""The connections to the file: one writes, one reads, one watches; each is used by one thread at a time."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from crewbus import reentrant_lock
from crewbus.exceptions import CorruptRecordError, RecordingError
from crewbus_sqlite import _labels, _migration, _schema
from crewbus_sqlite._errors import translated

OLDEST: Final = (3, 35, 0)
_SYNCED: Final = "PRAGMA synchronous = FULL"
_UNSYNCED: Final = "PRAGMA synchronous = NORMAL"
SETTINGS: Final = (
    "PRAGMA trusted_schema = OFF",
    _SYNCED,
    "PRAGMA cell_size_check = ON",
    "PRAGMA cache_size = -1024",
    "PRAGMA journal_size_limit = 16777216",
    "PRAGMA wal_autocheckpoint = 4000",  # pages: each commit of a thousand runs rewrites many
)
PAUSE: Final = 0.002
"""Seconds between attempts to get a lock."""

_TRANSLATED: Final = (
    sqlite3.Error,
    CorruptRecordError,
    MemoryError,  # sqlite3 raises this and the two below for damaged files too
    OverflowError,
    UnicodeDecodeError,
)
FileId = tuple[int, int]


def _refuse_inner(*action: int | str | None) -> int:
    """Deny what a trigger or view would do: we create none, so another program added it while the file was open."""
    return sqlite3.SQLITE_OK if action[-1] is None else sqlite3.SQLITE_DENY


def _file_id(path: str | Path) -> FileId | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - at each commit: half the time of Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _file_state(path: str | Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - thirty times a second
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class _Connection:
    """A connection that is opened at first use, for one thread at a time."""

    def __init__(self) -> None:
        self.lock = reentrant_lock()
        self.connection: sqlite3.Connection | None = None
        self._is_synced = True
        """Whether each commit certainly is."""

    def sync(self, connection: sqlite3.Connection, synced: bool) -> None:
        """Have the next commits put on disk, or not."""
        if synced is not self._is_synced:
            self._is_synced = False
            connection.execute(_SYNCED if synced else _UNSYNCED)
            self._is_synced = synced

    def close(self) -> None:
        with self.lock:
            if self.connection is not None:
                self.connection.close()
                self.connection, self._is_synced = None, True


class Database:
    """The file at ``path``; ``busy`` is the number of seconds to wait for locks of other processes.

    Nothing is opened before its first use, and nothing is created before the first write.
    """

    def __init__(self, path: Path, busy: float) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            raise RecordingError(
                f"SQLite {sqlite3.sqlite_version} is too old for crewbus-sqlite, which needs "
                f"{'.'.join(map(str, OLDEST))}: use a Python that is linked to a newer one"
            )
        self.path = path
        self._busy = busy
        self.armed_by = ""
        """The plugin that records there, if no code asked for it: what can be done about it then differs."""
        self._writer = _Connection()
        self._reader = _Connection()
        self._watcher = _Connection()
        self._file: FileId | None = None
        self._log_path = f"{path}-wal"
        self._log: FileId | None = None
        self._closed = False

    @property
    def exists(self) -> bool:
        """Whether the file has been opened or created here."""
        return self._file is not None

    @contextmanager
    def writing(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction that is on disk when its block ends, and rolled back if the block raises.

        If not ``synced``, all processes see it, but only the next synced one puts it on disk. Creates the file if there
        is none. Raises `RecordingError` if SQLite fails.
        """
        with self._writer.lock, self.translating_errors():
            connection = self._writer.connection or self._open_writer()
            self._require_in_place()
            _end(connection)  # an interrupt may have left it open
            self._writer.sync(connection, synced)
            self._execute_locking(connection, "BEGIN IMMEDIATE")
            with _transaction(connection):
                yield connection
            self._require_in_place()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """A snapshot of everything committed by all processes; None if there is no file yet, or an empty one."""
        if self._reader.connection is None:
            self._migrate_older()  # before the lock is taken, since that needs the other connection's
        with self._reader.lock, self.translating_errors():
            connection = self._reader.connection or self._open_reader()
            if connection is None:
                yield None
                return
            self._require_same_file()
            _end(connection)  # left open by an interrupt, or by the code that a reading signal handler interrupts
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                _end(connection)

    def files(self) -> object:
        """What the file system says of the write-ahead log, or else of the file: another value after each commit.

        Only nearly: the time of a file is that of a tick of the kernel's clock, and its size may stay.
        """
        return _file_state(self._log_path) or _file_state(self.path)

    def version(self) -> int | None:
        """A number that differs after each commit, by whatever process; None if there is no file."""
        with self._watcher.lock, self.translating_errors():
            connection = self._watcher.connection or self._open_watcher()
            if connection is None:
                return None
            self._require_same_file()
            ((version,),) = connection.execute("PRAGMA data_version")
            return int(version)

    def close(self) -> None:
        """Close all connections, for good."""
        self._closed = True
        with self.translating_errors():
            self._watcher.close()
            self._reader.close()
            self._writer.close()

    def quiesce(self) -> Callable[[], None]:
        """Close all connections, and keep all threads from them until the returned function is called.

        For a fork: SQLite's locks belong to the process, which a child with a copy of a connection can't know.
        """
        connections = self._writer, self._reader, self._watcher
        for each in connections:
            each.lock.acquire()
        with suppress(sqlite3.Error):
            for each in connections:
                each.close()

        def resume() -> None:
            for each in connections:
                each.lock.release()

        return resume

    @contextmanager
    def translating_errors(self) -> Iterator[None]:
        """Raise the errors of SQLite in the block as errors of crewbus."""
        try:
            yield
        except _TRANSLATED as error:
            raise translated(error, self.path, self.armed_by) from error

    def _require_in_place(self) -> None:
        """Raise unless readers find the written file and its log under the path."""
        self._require_same_file()
        if self._log != _file_id(self._log_path):
            raise self._gone(self._log_path)

    def _require_same_file(self) -> None:
        if self._file != _file_id(self.path):
            raise self._gone(self.path)

    def _gone(self, path: str | Path) -> RecordingError:
        return RecordingError(
            f"{path} was deleted or replaced while it was open: pending events are lost. Start again with another store"
        )

    def _connect(self, mode: str) -> sqlite3.Connection:
        if self._closed:
            raise closed(self.path)
        if self._file is not None:  # SQLite would write the old file's write-ahead log into a new file
            self._require_same_file()
        uri = f"{self.path.as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, timeout=self._busy, isolation_level=None, check_same_thread=False, uri=True)
        connection.set_authorizer(_refuse_inner)
        return connection

    def _migrate_older(self) -> None:
        """Migrate the file, if an earlier release made it."""
        with self._writer.lock, self.translating_errors():
            if self._writer.connection is not None or (self._file is None and not self.path.exists()):
                return
            with _opened(self._connect("rw")) as connection:
                _set(connection)
                self._prepare(connection)
            connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> bool:
        """Whether the file has our tables. Those of an earlier release are migrated."""
        version = self._version(connection)
        if version in (0, _schema.VERSION):
            return bool(version)
        self._execute_locking(connection, "BEGIN IMMEDIATE")
        with _transaction(connection):
            version = _schema.check(connection, self.path)
            if version != _schema.VERSION:  # another process may have migrated it
                _migration.migrate(connection, version)
        return True

    def _open_reader(self) -> sqlite3.Connection | None:
        if self._file is None and not self.path.exists():
            return None
        with _opened(self._connect("rw")) as connection:
            _set(connection, "PRAGMA query_only = ON")
            version = self._version(connection)
            if not version:
                connection.close()
                return None
            if version != _schema.VERSION:
                raise self._gone(self.path)
        connection.set_authorizer(None)  # reading fires no trigger, and the callback would swallow interrupts
        self._file = self._file or _file_id(self.path)
        self._reader.connection = connection
        return connection

    def _open_watcher(self) -> sqlite3.Connection | None:
        if self._file is None and not self.path.exists():
            return None
        with _opened(self._connect("rw")) as connection:
            connection.execute("PRAGMA busy_timeout = 0")  # it is asked again soon
        self._file = self._file or _file_id(self.path)
        self._watcher.connection = connection
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        with _opened(self._connect("rwc" if self._file is None else "rw")) as connection:
            _set(connection)
            if not self._prepare(connection):
                self._create(connection)
            self._use_wal(connection)
            self._version(connection)  # creates the write-ahead log if there is none
            connection.execute("PRAGMA busy_timeout = 0")  # from now on `_execute_locking` waits
        self._file = self._file or _file_id(self.path)
        self._log = _file_id(self._log_path)
        self._writer.connection = connection
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        connection.execute("BEGIN")
        with _transaction(connection):
            return _schema.check(connection, self.path)

    def _create(self, connection: sqlite3.Connection) -> None:
        self._use_wal(connection)
        self._execute_locking(connection, "BEGIN IMMEDIATE")
        with _transaction(connection):
            if not _schema.check(connection, self.path):  # another process may have created it
                _schema.create(connection)
                _labels.create(connection)

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        ((mode,),) = self._execute_locking(connection, "PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise RecordingError(f"{self.path} does not support a write-ahead log: choose a path on a local disk")

    def _execute_locking(self, connection: sqlite3.Connection, statement: str) -> sqlite3.Cursor:
        """Execute a statement that needs a lock, as soon as the lock is free.

        SQLite itself tries ten times a second, and may never succeed among processes that write all the time.
        """
        deadline = time.monotonic() + self._busy
        while True:
            try:
                return connection.execute(statement)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
            time.sleep(PAUSE)


@contextmanager
def _opened(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Close a connection if its preparation fails."""
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def closed(path: Path) -> RecordingError:
    """The error for a closed store."""
    return RecordingError(f"the store at {path} is closed: open it again")


def _set(connection: sqlite3.Connection, *more: str) -> None:
    for setting in (*SETTINGS, *more):
        connection.execute(setting)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit when the block ends, or roll back if it raises."""
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        _end(connection)
        raise


def _end(connection: sqlite3.Connection) -> None:
    """Roll back, if a transaction is open."""
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
