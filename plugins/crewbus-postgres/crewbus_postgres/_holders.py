"""The table ``holders``: which stores hold logs, and until when, by the clock of the server."""

from __future__ import annotations

import os
import socket
from datetime import datetime
from typing import Final

from crewbus.exceptions import RunHeldError
from crewbus.stores.liveness import CERTAIN, clock, new_token
from crewbus_postgres._logs import LogRow
from crewbus_postgres._session import Session


class Holder:
    """This store as a holder of logs, with leases of so many seconds."""

    def __init__(self, lease: float) -> None:
        self.token: Final = new_token()
        self.name: Final = f"process {os.getpid()} on {socket.gethostname()}"
        self.lease: Final = lease
        self._renewed: float | None = None

    def renew(self, session: Session) -> None:
        """Have this store's leases end a full lease from now."""
        at = clock()
        rows = session.rows(
            "INSERT INTO $s.holders VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s)) "
            "ON CONFLICT (token) DO UPDATE SET until = excluded.until RETURNING 1",
            self.token,
            self.name,
            self.lease,
        )
        if rows:
            self._renewed = at

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
        return self._renewed is not None and clock() - self._renewed < CERTAIN * self.lease

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
        "SELECT name, until FROM $s.holders WHERE token = %s AND (until > clock_timestamp() OR token = %s)",
        log.holder,
        own,
    )
    return [(name, until) for name, until in rows]
