"""Who writes a log: this store, another one that is alive, or one that is known to be dead."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

from crewbus_sqlite._sums import corrupt, require, sum_of

_GONE: Final = ("Z", "X")
_COLUMNS: Final = "token, name, identity, until"


class Holder(NamedTuple):
    """A store that holds logs: a row of the table ``holders``."""

    token: str
    name: str
    identity: str
    until: float

    @property
    def alive(self) -> bool:
        """Whether its lease has not ended, and its process is not known to be dead."""
        return self.until > time.time() and not _is_dead(self.identity)


def this_process() -> Holder:
    """A new holder, with a lease that has ended."""
    pid = os.getpid()
    return Holder(uuid4().hex, f"process {pid} on {socket.gethostname()}", f"{_here()} {pid} {_started(pid)}", 0.0)


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


def renew(connection: sqlite3.Connection, holder: Holder, lease: float) -> None:
    """Have a holder's leases end in ``lease`` seconds from now; forget those that ended and hold nothing."""
    now = time.time()
    connection.execute(
        "DELETE FROM holders WHERE until < ? AND NOT EXISTS (SELECT 1 FROM logs WHERE holder = token)", (now - lease,)
    )
    renewed = holder._replace(until=now + lease)
    connection.execute("INSERT OR REPLACE INTO holders VALUES (?, ?, ?, ?, ?)", (*renewed, sum_of("holders", renewed)))


def resign(connection: sqlite3.Connection, holder: Holder) -> None:
    """Remove a holder that holds nothing any more."""
    connection.execute("DELETE FROM holders WHERE token = ?", (holder.token,))


def _is_dead(identity: str) -> bool:
    """Whether a process of this boot and pid namespace has ended; False where that can't be known."""
    place, started = identity.rpartition(" ")[::2]
    here, process = place.rpartition(" ")[::2]
    if not started or here != _here() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    found = _started(int(process))
    return bool(found) and found != started


def _here() -> str:
    """Where pids mean what they mean here: the boot and the pid namespace; a name of no place where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return uuid4().hex


def _started(pid: int) -> str:
    """When a process started, in ticks since the boot; "dead" for one that only waits to be reaped; empty: unknown."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
    except (OSError, ValueError):
        return ""
    return "dead" if state in _GONE else rest[18]
