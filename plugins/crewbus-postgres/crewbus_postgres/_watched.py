"""Who is to be told of what: of changes to single logs, and of work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from crewbus import reentrant_lock
from crewbus.stores.watching import Watchers
from crewbus_postgres import _logs
from crewbus_postgres._holders import ALIVE
from crewbus_postgres._session import Row, Session

WATCHED: Final = 60
"""Seconds for which a log says that somebody watches it, so that whoever writes it tells of that."""
RENEWED: Final = 20.0
"""Seconds after which that is said again."""
_MARK: Final = f"UPDATE $s.logs l SET watched = clock_timestamp() + interval '{WATCHED} s' WHERE {{}} RETURNING l.id"
_STATES: Final = (
    f"SELECT l.id, l.epoch, l.last, l.sealed, l.messages, {ALIVE} FROM $s.logs l "
    "LEFT JOIN $s.holders h ON h.token = l.holder WHERE l.id = ANY(%b::bigint[])"
)


class Watched:
    """The watchers of single logs, by the logs' ids, and those of work."""

    def __init__(self) -> None:
        self.work: Final = Watchers()
        self._logs: dict[int, Watchers] = {}
        self._seen: dict[int, Row] = {}
        """What the server last said of each log."""
        self._lock = reentrant_lock()
        self._mark_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._logs)

    def mark(self, session: Session, root_id: str) -> int | None:
        """Have the log of a root run say that somebody watches it; its id, None if it is not there."""
        for (log,) in session.rows(_MARK.format(_logs.BY_ROOT), *_logs.key_of(root_id)):
            return int(log)
        return None

    def add(self, log: int, notify: Callable[[], object]) -> Callable[[], None]:
        """Tell of changes to the log of that id; returns what ends that."""
        with self._lock:
            watchers = self._logs.setdefault(log, Watchers())
            remove = watchers.add(notify)

        def stop() -> None:
            with self._lock:
                remove()
                if not watchers and self._logs.get(log) is watchers:
                    del self._logs[log]
                    self._seen.pop(log, None)

        return stop

    def tell(self, logs: Iterable[int], *, work: bool = False) -> None:
        """Tell who watches one of these logs, or work."""
        for log in logs:
            watchers = self._logs.get(log)
            if watchers is not None:
                watchers.notify()
        if work:
            self.work.notify()

    def tell_all(self) -> None:
        """Tell everyone: something may have happened unseen."""
        self.tell([*self._logs], work=True)

    def look(self, session: Session) -> bool:
        """Ask for the state of all watched logs, and tell who watches one that has changed; returns whether one has."""
        with self._lock:
            logs = [*self._logs]
        if not logs:
            return False
        if time.monotonic() >= self._mark_at:
            session.rows(_MARK.format("l.id = ANY(%b::bigint[])"), logs)
            self._mark_at = time.monotonic() + RENEWED
        found = {row[0]: row for row in session.rows(_STATES, logs)}
        # Also at the first look: it may have changed since whoever watches it looked at it.
        changed = [log for log in logs if self._seen.get(log) != found.get(log)]
        self.tell(changed)
        self._seen = found
        return bool(changed)
