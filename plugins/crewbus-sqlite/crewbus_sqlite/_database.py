"""The file's two connections: one that writes, one that reads, each for one thread at a time."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from crewbus.exceptions import CorruptRecordError, RecordingError
from crewbus_sqlite import _schema
from crewbus_sqlite._errors import explained

OLDEST: Final = (3, 35, 0)
SETTINGS: Final = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA synchronous = FULL",
    "PRAGMA cell_size_check = ON",
    "PRAGMA cache_size = -1024",
    "PRAGMA journal_size_limit = 16777216",
    "PRAGMA wal_autocheckpoint = 4000",  # pages: what a thousand runs write anew in each commit is copied once in a few
)
PAUSE: Final = 0.002
"""Seconds between tries to have a lock."""

_EXPLAINED: Final = (
    sqlite3.Error,
    CorruptRecordError,
    MemoryError,  # which, like the two below, sqlite3 raises of damaged files too
    OverflowError,
    UnicodeDecodeError,
)
FileId = tuple[int, int]


def _refuse_inner(*action: int | str | None) -> int:
    """Deny what a trigger or a view would do: ours has none, so somebody added it while we had the file open."""
    return sqlite3.SQLITE_OK if action[-1] is None else sqlite3.SQLITE_DENY


def _file_id(path: str | Path) -> FileId | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - at each commit: half the time of Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Link:
    """A connection, opened when it is first used, for one thread at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.connection: sqlite3.Connection | None = None

    def close(self) -> None:
        with self.lock:
            if self.connection is not None:
                self.connection.close()
                self.connection = None


class Database:
    """A record's file at ``path``; ``busy``: how many seconds to wait for other processes' locks.

    Nothing is opened before it is used, and nothing created before it is written.
    """

    def __init__(self, path: Path, busy: float) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            raise RecordingError(
                f"SQLite {sqlite3.sqlite_version} is too old for crewbus-sqlite, which needs "
                f"{'.'.join(map(str, OLDEST))}: use a Python that is linked to a newer one"
            )
        self.path = path
        self._busy = busy
        self._writer = _Link()
        self._reader = _Link()
        self._file: FileId | None = None
        self._log_path = f"{path}-wal"
        self._log: FileId | None = None
        self._closed = False

    @property
    def exists(self) -> bool:
        """Whether the file was found or made here."""
        return self._file is not None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on disk when its block has ended, and undone where that raises.

        Creates the file if there is none. Raises `RecordingError` where SQLite can't.
        """
        with self._writer.lock, self._explaining():
            connection = self._writer.connection or self._open_writer()
            self._require_there()
            _end(connection)  # what an interrupt left open
            self._insistently(connection, "BEGIN IMMEDIATE")
            with _transaction(connection):
                yield connection
            self._require_there()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """A snapshot of what all processes have committed; None where there is no file yet, or an empty one."""
        with self._reader.lock, self._explaining():
            connection = self._reader.connection or self._open_reader()
            if connection is None:
                yield None
                return
            self._require_same_file()
            _end(connection)  # what an interrupt left open, or was itself interrupted by a signal handler that reads
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                _end(connection)

    def close(self) -> None:
        """Close both connections, for good."""
        self._closed = True
        with self._explaining():
            self._reader.close()
            self._writer.close()

    def quiesce(self) -> Callable[[], None]:
        """Close both connections, and keep all threads from them until the function that is returned is called.

        For a fork: SQLite's locks are the process's, and a child that inherits a connection would believe to have them.
        """
        links = self._writer, self._reader
        for link in links:
            link.lock.acquire()
        with suppress(sqlite3.Error):
            for link in links:
                link.close()

        def resume() -> None:
            for link in links:
                link.lock.release()

        return resume

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except _EXPLAINED as error:
            raise explained(error, self.path) from error

    def _require_there(self) -> None:
        """Raise unless what is written can be found again under the path."""
        self._require_same_file()
        if self._log != _file_id(self._log_path):
            raise self._gone(self._log_path)

    def _require_same_file(self) -> None:
        if self._file != _file_id(self.path):
            raise self._gone(self.path)

    def _gone(self, path: str | Path) -> RecordingError:
        return RecordingError(
            f"{path} was deleted or replaced while it was open: what is not written by now can't be any more. "
            f"Start again with another store"
        )

    def _connect(self, mode: str) -> sqlite3.Connection:
        if self._closed:
            raise closed(self.path)
        if self._file is not None:  # a file in its place would be given what is in the old one's write-ahead log
            self._require_same_file()
        uri = f"{self.path.as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, timeout=self._busy, isolation_level=None, check_same_thread=False, uri=True)
        connection.set_authorizer(_refuse_inner)
        return connection

    def _open_reader(self) -> sqlite3.Connection | None:
        if self._file is None and not self.path.exists():
            return None
        with _opened(self._connect("rw")) as connection:
            _set(connection, "PRAGMA query_only = ON")
            if not self._is_ours(connection):
                connection.close()
                return None
        connection.set_authorizer(None)  # it only reads, which fires no trigger; an interrupt in there would be lost
        self._file = self._file or _file_id(self.path)
        self._reader.connection = connection
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        with _opened(self._connect("rwc" if self._file is None else "rw")) as connection:
            _set(connection)
            if not self._is_ours(connection):
                self._create(connection)
            self._use_wal(connection)
            self._is_ours(connection)  # which makes the write-ahead log, if there is none
            connection.execute("PRAGMA busy_timeout = 0")  # from now on `_insistently` waits
        self._file = self._file or _file_id(self.path)
        self._log = _file_id(self._log_path)
        self._writer.connection = connection
        return connection

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        connection.execute("BEGIN")
        with _transaction(connection):
            return _schema.check(connection, self.path)

    def _create(self, connection: sqlite3.Connection) -> None:
        self._use_wal(connection)
        self._insistently(connection, "BEGIN IMMEDIATE")
        with _transaction(connection):
            if not _schema.check(connection, self.path):  # another process may have been faster
                _schema.create(connection)

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        ((mode,),) = self._insistently(connection, "PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise RecordingError(f"{self.path} can't have a write-ahead log here: choose a path on a local disk")

    def _insistently(self, connection: sqlite3.Connection, statement: str) -> sqlite3.Cursor:
        """Execute a statement that needs a lock, as soon as it can be had.

        SQLite itself would look for it ten times a second, and among processes that write all the time never find it.
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
    """Close a connection that can't be made ready."""
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def closed(path: Path) -> RecordingError:
    """The error that says a store is closed."""
    return RecordingError(f"the store at {path} is closed: open it again")


def _set(connection: sqlite3.Connection, *more: str) -> None:
    for setting in (*SETTINGS, *more):
        connection.execute(setting)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what was begun when the block has ended, or undo it where that raises."""
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        _end(connection)
        raise


def _end(connection: sqlite3.Connection) -> None:
    """Undo what was begun, if anything was."""
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
