"""The database: a bounded pool of connections, and the schema, which the first write creates."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg

from crewbus import reentrant_lock
from crewbus.exceptions import RecordingError
from crewbus_postgres import _schema
from crewbus_postgres._session import Connection, Session

CONNECT: Final = 10
"""Seconds to wait for a connection to be established."""
IDLE: Final = 1.0
"""Seconds after which a connection is tried out before it is used: the server may be gone without a sign."""
REPEATED: Final = 2
"""How often a connection executes a statement until it is prepared on the server."""
KEEPALIVES: Final[dict[str, Any]] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


class Unavailable(RecordingError):
    """The server could not be reached, or ended the connection: the same statement may succeed later."""


class Database:
    """The schema ``schema`` of the database at ``url``, by at most ``connections`` at a time.

    Behind a pooler no setting outlives a transaction, and nothing is prepared on the server: PgBouncer may stand
    between.
    """

    def __init__(self, url: str, schema: str, connections: int, timeout: float, name: str) -> None:
        self.name: Final = name
        """What messages call it: without the password."""
        self.schema: Final = schema
        self._url = url
        self._timeout = timeout
        self._room = threading.BoundedSemaphore(connections)
        self._lock = reentrant_lock()
        self._idle: list[tuple[float, Connection]] = []
        self._is_there = False
        self._closed = False

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session in which each statement is a transaction. Raises `RecordingError` for all errors of the server."""
        if not self._room.acquire(timeout=self._timeout):
            raise Unavailable(f"{self.name}: all connections of this process are in use")
        connection: Connection | None = None
        try:
            connection = self._take()
            yield Session(connection, self.schema)
        except psycopg.Error as error:
            raise self._error(error) from error
        finally:
            if connection is not None:
                self._put(connection)
            self._room.release()

    @contextmanager
    def reading(self) -> Iterator[Session | None]:
        """A session; None if the schema has no tables yet."""
        with self.session() as session:
            if not self._is_there and _schema.version(session, self.schema):
                self.prepare(session)
            yield session if self._is_there else None

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction on the tables, which are created if need be."""
        with self.session() as session:
            self.prepare(session)
            with session.connection.transaction():
                yield session

    def prepare(self, session: Session) -> None:
        """Create the tables, or bring them up to date."""
        if not self._is_there and _schema.version(session, self.schema) < _schema.VERSION:
            with session.connection.transaction():
                _schema.migrate(session, self.schema)
        self._is_there = True

    def close(self) -> None:
        """Close the connections that are not in use, and each other one when its use ends."""
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for _, connection in idle:
            connection.close()

    @staticmethod
    def is_pooled(connection: Connection) -> bool:
        """Whether a pooler stands between: then a session lasts as long as a transaction."""
        return connection.prepare_threshold is None

    def _take(self) -> Connection:
        while True:
            with self._lock:
                since, connection = self._idle.pop() if self._idle else (0.0, None)
            if connection is None:
                return self.connect()
            with suppress(psycopg.Error):
                connection.pgconn.consume_input()  # which notices at once that the server has closed it
                if time.monotonic() - since >= IDLE:
                    connection.execute("SELECT 1")
                return connection
            connection.close()

    def connect(self) -> Connection:
        """Open a connection."""
        seconds = max(1, min(CONNECT, int(self._timeout)))
        connection = Connection.connect(
            self._url, autocommit=True, prepare_threshold=None, connect_timeout=seconds, **KEEPALIVES
        )
        connection.limit = self._timeout
        with connection.cursor() as cursor:
            (pid,) = cursor.execute("SELECT pg_backend_pid()").fetchone() or (None,)
        if pid == connection.info.backend_pid:  # a pooler gives another one
            connection.prepare_threshold = REPEATED
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [f"{self._timeout * 1000:.0f}ms"])
        return connection

    def _put(self, connection: Connection) -> None:
        reusable = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            if reusable and not self._closed:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _error(self, error: psycopg.Error) -> RecordingError:
        text = f"{self.name}: {type(error).__name__}: {str(error).strip()}"
        return Unavailable(text) if isinstance(error, psycopg.OperationalError) else RecordingError(text)
