"""The table ``holders``: which stores hold logs, until when, and which of them are still alive."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Final, NamedTuple

from crewbus.stores.liveness import HeldLock, LockFiles, host_id, new_token
from crewbus_sqlite._checksums import corrupt, require, sum_of

# Files have the running system of a holder as its identity; the first release of crewbus-sqlite wrote more there.
_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
_COLUMNS: Final = "token, name, identity, until"


CERTAIN: Final = 2 / 3
"""The part of a lease within which its holder relies on it: the clocks of processes and hosts differ."""


def clock() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the system sleeps where there is one."""
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


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

    ``lease`` is the length of a lease in seconds. While this store holds logs it holds a lock too, on a file beside
    the database, from which processes of this host see at once whether it is alive.
    """

    def __init__(self, path: Path, lease: float) -> None:
        pid = os.getpid()
        self.own: Final = Holder(new_token(), f"process {pid} on {socket.gethostname()}", host_id(), 0.0)
        self._lease = lease
        self._files = LockFiles(path.with_name(f"{path.name}-holder-"))
        self._lock: HeldLock | None = None

    def is_own(self, holder: Holder) -> bool:
        """Whether a holder is this store."""
        return holder.token == self.own.token

    def is_alive(self, holder: Holder) -> bool:
        """Whether a holder's lease has not ended, and its process is not known to be dead."""
        if not holder.has_lease:
            return False
        return self.is_own(holder) or holder.host != self.own.host or not self._files.is_abandoned(holder.token)

    def renew(self, connection: sqlite3.Connection) -> None:
        """Have this store's leases end a full lease from now."""
        now = time.time()
        if self._lock is None or not self._lock.is_visible:
            self._lock = self._files.hold(self.own.token)
            self._remove_files(connection, now)
        connection.execute(
            "DELETE FROM holders WHERE until < ? AND NOT EXISTS (SELECT 1 FROM logs WHERE holder = token)",
            (now - self._lease,),
        )
        save(connection, self.own._replace(until=now + self._lease))

    def resign(self, connection: sqlite3.Connection) -> None:
        """Remove this store, which holds nothing any more."""
        connection.execute("DELETE FROM holders WHERE token = ?", (self.own.token,))

    def close(self, *, resigned: bool) -> None:
        """Release the lock. Unless this store has resigned, others see that it is dead."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release(keep_file=not resigned)

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


def exists(connection: sqlite3.Connection, holder: Holder) -> bool:
    """Whether a holder has a row."""
    return bool(connection.execute("SELECT 1 FROM holders WHERE token = ?", (holder.token,)).fetchall())


def save(connection: sqlite3.Connection, holder: Holder) -> None:
    """Write a row."""
    connection.execute("INSERT OR REPLACE INTO holders VALUES (?, ?, ?, ?, ?)", (*holder, sum_of("holders", holder)))
