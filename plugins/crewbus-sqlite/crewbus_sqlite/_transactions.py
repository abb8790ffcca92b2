"""The transactions of one store: each writes batches of logs, and what callers wait for."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from crewbus.stores.liveness import clock
from crewbus_sqlite import _tails
from crewbus_sqlite._changes import Change
from crewbus_sqlite._commit import Batch, write
from crewbus_sqlite._database import Database
from crewbus_sqlite._holders import Holders
from crewbus_sqlite._settling import settle_all


class Transactions:
    """Writes to the database for a holder; from one thread at a time."""

    def __init__(self, database: Database, holders: Holders) -> None:
        self._database = database
        self._holders = holders
        self.tails = 0
        """How many rows of tails this store has written since it last settled its logs."""
        self._others_tails = True
        """Whether there may be some that a killed process has left: the first write settles them."""
        self._known: object = None
        """How the file was when this store last wrote to it."""
        self._state = 0
        """A number that is another once somebody else has changed the file."""

    @property
    def settles(self) -> bool:
        """Whether the next write is to be of all logs that have tails, and puts these into their own rows."""
        return self.tails >= _tails.MOST

    def write(self, batches: list[Batch], changes: Sequence[Change[Any]], *, settles: bool, renews: bool) -> None:
        """Write all in one transaction; ``renews``: also the lease. Raises `RecordingError`."""
        with self._database.writing() as connection:
            if self._known != _state(connection):
                self._state += 1
            self._known = None
            renewed = self._holders.renew(connection) if renews else None
            held_at = clock()
            if self._others_tails:
                settle_all(connection)
            tails = write(connection, batches, self._holders.own.token, self._state, settles)
            if settles or self._others_tails:
                _tails.sweep(connection)
            known = _state(connection)
            for change in changes:
                change.perform(connection)
        self._known, self._others_tails = known, False
        self.tails = tails if settles else self.tails + tails
        for batch in batches:
            batch.held_at = held_at
        if renewed is not None:
            self._holders.presence.renewed(renewed)


def _state(connection: sqlite3.Connection) -> object:
    """Something that differs once anybody has changed the file, other processes or this connection."""
    ((version,),) = connection.execute("PRAGMA data_version").fetchall()
    return connection, version, connection.total_changes
