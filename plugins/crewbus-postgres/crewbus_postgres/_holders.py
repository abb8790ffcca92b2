"""The table ``holders``: which stores hold logs, and until when, by the clock of the server."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import datetime
from typing import Final

from crewbus.exceptions import RunHeldError
from crewbus.stores.liveness import CERTAIN, clock, new_token
from crewbus_postgres._logs import LogRow
from crewbus_postgres._session import Session

SURE: Final = 0.4
"""The part of a lease for which a holder counts as alive whose session is gone: it connects anew, and renews."""
RENEWALS: Final = 6
"""How often a lease is renewed before it would end."""
ALIVE: Final = (
    "CASE WHEN h.until > clock_timestamp() THEN h.live IS NULL OR h.sure > clock_timestamp() "
    "OR NOT pg_try_advisory_xact_lock_shared(h.live) ELSE false END"
)
"""Whether the holder ``h`` is alive: its lease has not ended, and the lock of its session, if it has one, is held."""


class Holder:
    """This store as a holder of logs, with leases of so many seconds."""

    def __init__(self, lease: float, live: Callable[[], int | None]) -> None:
        self.token: Final = new_token()
        self.name: Final = f"process {os.getpid()} on {socket.gethostname()}"
        self.lease: Final = lease
        self.until: float | None = None
        """When its leases end, by the clock of the server."""
        self._live = live
        self._certain_until: float | None = None

    def renew(self, session: Session) -> None:
        """Have this store's leases end a full lease from now."""
        at, live = clock(), self._live()
        ((self.until,),) = session.rows(
            "INSERT INTO $s.holders (token, name, until, live, sure) VALUES (%s, %s, "
            "clock_timestamp() + make_interval(secs => %s), %s, clock_timestamp() + make_interval(secs => %s)) "
            "ON CONFLICT (token) DO UPDATE SET until = excluded.until, live = excluded.live, sure = excluded.sure "
            "RETURNING extract(epoch FROM until)::float8",
            self.token,
            self.name,
            self.lease,
            live,
            SURE * self.lease,
        )
        self._certain_until = at + CERTAIN * self.lease * (1.0 if live is None else SURE)

    def clean_up(self, session: Session) -> None:
        """Delete the rows of dead holders that no log names."""
        session.rows(
            "DELETE FROM $s.holders h WHERE until < clock_timestamp() - make_interval(secs => %s) AND token <> %s "
            "AND NOT EXISTS (SELECT 1 FROM $s.logs l WHERE l.holder = h.token)",
            self.lease,
            self.token,
        )

    @property
    def is_certain(self) -> bool:
        """Whether no other process can have taken a log of this store, by this process's own clock."""
        return self._certain_until is not None and clock() < self._certain_until

    def require_not_held(self, session: Session, log: LogRow) -> None:
        """Raise `RunHeldError` if a log has a holder who is alive, or this one. The caller has locked the log."""
        for name, until in alive(session, log, self.token):
            raise RunHeldError(
                f"run {log.root_id} is alive: held by {name}; its lease runs until "
                f"{until.isoformat(' ', 'seconds')} at least"
            )


def alive(session: Session, log: LogRow, own: str) -> list[tuple[str, datetime]]:
    """The holder of a log, with the end of its lease, if it is alive or has the token ``own``."""
    rows = session.rows(
        f"SELECT h.name, h.until FROM $s.holders h WHERE h.token = %s AND (h.token = %s OR {ALIVE})",
        log.holder,
        own,
    )
    return [(name, until) for name, until in rows]
