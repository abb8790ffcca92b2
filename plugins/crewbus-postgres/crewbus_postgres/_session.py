"""A session with the server: statements of this schema, and their rows."""

from __future__ import annotations

import re
from typing import Any, Final

import psycopg

from crewbus.exceptions import InputError

Row = tuple[Any, ...]
_NAME: Final = re.compile("[a-z_][a-z0-9_]{0,62}")


def quoted(schema: str) -> str:
    """The name of a schema in a statement; raises `InputError` unless it is a plain one."""
    if not _NAME.fullmatch(schema):
        raise InputError(f"{schema!r} is no name for a schema: use small letters, digits and underscores, 63 at most")
    return f'"{schema}"'


class Connection(psycopg.Connection[Row]):
    """A connection that waits for an answer for a limited time only: its server may be stopped, or not be reachable."""

    limit: float | None = None
    """Seconds."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """See `psycopg.Connection.wait`."""
        try:
            return super().wait(gen, interval, self.limit if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.pgconn.finish()  # what it still answers would be taken for the next answer
            raise


class Session:
    """Executes statements, in which ``$s`` stands for the schema."""

    def __init__(self, connection: psycopg.Connection[Row], schema: str) -> None:
        self.connection: Final = connection
        self.schema: Final = quoted(schema)

    def rows(self, query: str, *values: object) -> list[Row]:
        """Execute a statement, and return its rows."""
        with self.connection.cursor(binary=True) as cursor:
            cursor.execute(query.replace("$s", self.schema).encode(), values)
            return cursor.fetchall() if cursor.description is not None else []

    def script(self, statements: str) -> None:
        """Execute statements without values."""
        self.connection.execute(statements.replace("$s", self.schema).encode())
