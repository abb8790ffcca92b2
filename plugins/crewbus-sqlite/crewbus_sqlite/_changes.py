"""Changes: what callers wait for besides events, and share transactions for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Change(Generic[T]):
    """An operation for the writer to perform in its next transaction, after the events that are queued by then."""

    def __init__(self, operation: Callable[[sqlite3.Connection], T]) -> None:
        self._operation = operation
        self._result: T | None = None
        self._error: Exception | None = None
        self.done = False

    def perform(self, connection: sqlite3.Connection) -> None:
        """Perform it, inside the caller's transaction. Its own error is kept, and leaves the rest of that as it is."""
        self._error = None
        connection.execute("SAVEPOINT change")
        try:
            self._result = self._operation(connection)
        except Exception as error:
            connection.execute("ROLLBACK TO change")
            self._error = error
        connection.execute("RELEASE change")

    def end(self, failure: Exception | None) -> None:
        """The transaction is on disk, or has failed."""
        self._error = failure or self._error
        self.done = True

    def result(self) -> T:
        """What the operation returned; raises what it raised, or what the transaction failed with."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)
