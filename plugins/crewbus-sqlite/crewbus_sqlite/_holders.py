"""The table ``holders``: which stores hold logs, until when, and which of them are still alive."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Final, NamedTuple

from crewbus.stores.liveness import LockFiles, Presence, Sign, clock, host_id, new_token
from crewbus_sqlite._checksums import corrupt, require, sum_of

# Files have the running system of a holder as its identity; the first release of crewbus-sqlite wrote more there.
_COLUMNS: Final = "token, name, identity, until"


class Holder(NamedTuple):
    """A store that holds logs, or held them when its process ended: a row of the table."""

    token: str
    name: str
    host: str
    until: float

    @property
    def has_lease(self) -> bool:
        """Whether its lease has not ended."""
        return self.until > time.time()


class Holders:
    """The holders of the database at ``path``, and this store as one of them: ``own``.

    ``lease`` is the length of a lease in seconds. Where files can be locked, the file of a holder on this host says
    whether it is alive; where they can't, and for holders on other hosts, its lease in the table does.
    """

    def __init__(self, path: Path, lease: float) -> None:
        pid = os.getpid()
        self.own: Final = Holder(new_token(), f"process {pid} on {socket.gethostname()}", host_id(), 0.0)
        self._lease = lease
        self._files = LockFiles(path.with_name(f"{path.name}-holder-"))
        self.presence: Final = Presence(self._files, self.own.token, lease)

    def is_own(self, holder: Holder) -> bool:
        """Whether a holder is this store."""
        return holder.token == self.own.token

    def is_alive(self, holder: Holder) -> bool:
        """Whether a holder may still write its logs."""
        sign = self._files.sign(holder.token) if holder.host == self.own.host else Sign.UNKNOWN
        return holder.has_lease if sign is Sign.UNKNOWN else sign is Sign.ALIVE

    def renew(self, connection: sqlite3.Connection) -> float:
        """Have this store's leases end a full lease from now, which is returned as `clock` has it."""
        at, now = clock(), time.time()
        if self.presence.show():
            self._remove_files(connection, now)
        connection.execute(
            "DELETE FROM holders WHERE until < ? AND NOT EXISTS (SELECT 1 FROM logs WHERE holder = token)",
            (now - self._lease,),
        )
        save(connection, self.own._replace(until=now + self._lease))
        return at

    def resign(self, connection: sqlite3.Connection) -> None:
        """Remove this store, which holds nothing any more."""
        connection.execute("DELETE FROM holders WHERE token = ?", (self.own.token,))

    def close(self, *, resigned: bool) -> None:
        """Release the lock. Unless this store has resigned, others see that it is dead."""
        self.presence.end(keep_file=not resigned)

    def _remove_files(self, connection: sqlite3.Connection, now: float) -> None:
        """Remove the files of dead holders, whose leases have ended."""
        rows = connection.execute("SELECT token FROM holders WHERE until >= ?", (now,)).fetchall()
        for token in {*self._files.tokens()} - {token for (token,) in rows}:
            self._files.remove(token)


def load(connection: sqlite3.Connection, token: str | None) -> Holder | None:
    """The holder that a log names; None where it names none. Raises `CorruptRecordError`."""
    if token is None:
        return None
    for *columns, found in connection.execute(
        f"SELECT {_COLUMNS}, sum FROM holders WHERE token = ?", (token,)
    ).fetchall():
        holder = Holder(*columns)
        require("holders", holder, found)
        return holder
    raise corrupt(f"in the table holders, the row {token!r} is missing")


def every(connection: sqlite3.Connection) -> list[Holder]:
    """All holders; raises `CorruptRecordError`."""
    found = []
    for *columns, digest in connection.execute(f"SELECT {_COLUMNS}, sum FROM holders").fetchall():
        holder = Holder(*columns)
        require("holders", holder, digest)
        found.append(holder)
    return found


def exists(connection: sqlite3.Connection, holder: Holder) -> bool:
    """Whether a holder has a row."""
    return bool(connection.execute("SELECT 1 FROM holders WHERE token = ?", (holder.token,)).fetchall())


def save(connection: sqlite3.Connection, holder: Holder) -> None:
    """Write a row."""
    connection.execute("INSERT OR REPLACE INTO holders VALUES (?, ?, ?, ?, ?)", (*holder, sum_of("holders", holder)))
