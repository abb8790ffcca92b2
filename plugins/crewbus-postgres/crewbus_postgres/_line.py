"""The line: a session by which this process is told of changes, tells others, and shows that it is alive."""

from __future__ import annotations

import random
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import Final

import psycopg

from crewbus import reentrant_lock
from crewbus.exceptions import CrewbusError
from crewbus_postgres._database import Database
from crewbus_postgres._session import Connection, Session
from crewbus_postgres._watched import Watched

LOOK: Final = 1.0
"""Seconds between two looks at the logs that are watched: for what nobody told, such as the death of a holder."""
SHORTEST_LOOK: Final = 0.05
"""The same where nobody tells, as behind PgBouncer, while something changes."""
TELLING: Final = 0.01
"""Seconds between two times that others are told."""
HEARTBEAT: Final = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries to connect."""
MOST: Final = 7900
"""The most bytes of what is told at once."""
ALL: Final = "*"
WORK: Final = "w"
TAKEN: Final = "t"
_TELL: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
"""It waits for no disk: who misses it looks a second later."""


class Line:
    """Tells the watchers of a store of changes by other processes, and other processes of the changes by this one.

    ``changed`` is called with each message, ``taken`` when another process has taken logs, ``presence`` when `live`
    has changed. Where a pooler stands between, or with ``listens`` False, nobody tells, and the line looks more often.
    """

    def __init__(
        self,
        database: Database,
        *,
        listens: bool,
        changed: Callable[[], object],
        taken: Callable[[], object],
        presence: Callable[[], object],
    ) -> None:
        self.watched: Final = Watched()
        self.live: int | None = None
        """The key of the lock that the session holds, by which others see that this process is alive; or None."""
        self._database = database
        self._listens = listens
        self._changed, self._taken, self._presence = changed, taken, presence
        self._pending: set[str] = set()
        """What others are to be told."""
        self._told_at = self._looked_at = self._heard_at = 0.0
        self._period = SHORTEST_LOOK
        self._snapshot: object = None
        self._lock = reentrant_lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = 0
        """Of the session, by which it knows what it told itself."""
        self._ends: tuple[socket.socket, socket.socket] | None = None
        """What is sent into the second ends the wait of the thread for the first."""

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._thread is None:
            with self._lock:
                self._begin()

    def _begin(self) -> None:
        if self._thread is not None or self._closed:
            return
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        name = f"crewbus line {self._database.name}"
        thread = threading.Thread(target=self._work, args=[ends[0]], name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is exiting
            for end in ends:
                end.close()
            return
        self._thread, self._ends = thread, ends

    def watch_log(self, root_id: str, notify: Callable[[], object]) -> Callable[[], None] | None:
        """Call ``notify`` after changes to a log; returns what ends that, or None if the log is not there."""
        with self._database.reading() as session:
            log = None if session is None else self.watched.mark(session, root_id)
        if log is None:
            return None
        self.start()
        self._wake()
        return self.watched.add(log, notify)

    def watch_work(self, notify: Callable[[], object]) -> Callable[[], None]:
        """Call ``notify`` when there may be work; returns what ends that."""
        self.start()
        return self.watched.work.add(notify)

    def tell(self, logs: Iterable[int] = (), *, work: bool = False, taken: bool = False) -> None:
        """Tell everyone, here and elsewhere, of changes that were committed."""
        logs = [*logs]
        if not (logs or work):
            return
        self.watched.tell(logs, work=work)
        words = {f"{TAKEN if taken else ''}{log}" for log in logs} | ({WORK} if work else set())
        with self._lock:
            is_new = not self._pending
            self._pending |= words
        self.start()
        if is_new:
            self._wake()

    def close(self, timeout: float) -> None:
        """Tell what is to be told, and end; waits ``timeout`` seconds for that."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        for end in self._ends or ():
            end.close()

    def _wake(self) -> None:
        if self._ends is not None:
            with suppress(OSError):  # it is full, and so wakes; or closed
                self._ends[1].send(b"x")

    # In the thread

    def _work(self, woken: socket.socket) -> None:
        pause = FIRST_PAUSE
        while not self._closed:
            try:
                with closing(self._database.connect()) as connection:
                    if self._listens and not self._database.is_pooled(connection):
                        self._listen(connection)
                    pause = FIRST_PAUSE
                    self._serve(connection, woken)
            except (psycopg.Error, CrewbusError, OSError):
                pass
            finally:
                self._show(None)
            if not self._closed:
                _wait(woken, pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, LONGEST_PAUSE)

    def _listen(self, connection: Connection) -> None:
        """Listen; only then look at what has happened meanwhile."""
        connection.add_notify_handler(lambda notify: self._hear(notify.pid, notify.payload))
        connection.execute(f'LISTEN "{self._database.schema}"'.encode())
        key = secrets.randbits(63)
        connection.execute("SELECT pg_advisory_lock(%s)", [key])
        self._pid = connection.info.backend_pid
        self._show(key)
        self.watched.tell_all()
        self._changed()

    def _show(self, key: int | None) -> None:
        if self.live != key:
            self.live = key
            self._presence()

    def _serve(self, connection: Connection, woken: socket.socket) -> None:
        session = Session(connection, self._database.schema)
        while True:
            self._send(session)
            if self._closed:
                return
            _wait(woken, self._due() - time.monotonic(), connection.fileno())
            self._receive(connection)
            if time.monotonic() >= self._looked_at + self._period:
                self._look(session)

    def _due(self) -> float:
        """When there is something to do, unless this is woken."""
        due = [self._heard_at + HEARTBEAT]
        if self._is_looking():
            due.append(self._looked_at + self._period)
        if self._pending:
            due.append(self._told_at + TELLING)
        return min(due)

    def _is_looking(self) -> bool:
        return bool(self.watched) or (self.live is None and bool(self.watched.work))

    def _send(self, session: Session) -> None:
        """Tell others what is to be told, if it is time for that."""
        if not self._pending or (time.monotonic() < self._told_at + TELLING and not self._closed):
            return
        with self._lock:
            words, self._pending = self._pending, set()
        text = " ".join(words)
        session.rows(_TELL, self._database.schema, text if len(text) <= MOST else ALL)
        self._told_at = self._heard_at = time.monotonic()

    def _receive(self, connection: Connection) -> None:
        """Hear what was told; every ten seconds make sure that the session is still there."""
        connection.pgconn.consume_input()
        while (notify := connection.pgconn.notifies()) is not None:
            self._hear(notify.be_pid, notify.extra.decode())
        if time.monotonic() >= self._heard_at + HEARTBEAT:
            connection.execute("SELECT 1")
            self._heard_at = time.monotonic()

    def _hear(self, pid: int, text: str) -> None:
        words = text.split()
        self._heard_at = time.monotonic()
        if pid == self._pid:
            return
        if ALL in words:
            self.watched.tell_all()
            self._taken()
        else:
            logs = [int(word.removeprefix(TAKEN)) for word in words if word != WORK]
            self.watched.tell(logs, work=WORK in words)
            if any(word.startswith(TAKEN) for word in words):
                self._taken()
        self._changed()

    def _look(self, session: Session) -> None:
        """Look for what nobody told."""
        changed = self.watched.look(session)
        if self.live is None and self.watched.work:
            before, self._snapshot = self._snapshot, session.rows("SELECT pg_current_snapshot()::text")
            if self._snapshot != before:
                changed = True
                self.watched.work.notify()
        longest = LOOK if self.live is not None else min(2 * self._period, LOOK)
        self._period = SHORTEST_LOOK if changed and self.live is None else longest
        self._looked_at = self._heard_at = time.monotonic()


def _wait(woken: socket.socket, seconds: float, *others: int) -> None:
    """Wait until ``woken`` can be read, which is done then, or one of the others."""
    with selectors.DefaultSelector() as selector:
        selector.register(woken, selectors.EVENT_READ)
        for other in others:
            selector.register(other, selectors.EVENT_READ)
        selector.select(max(0.0, seconds))
    with suppress(BlockingIOError):
        woken.recv(4096)
