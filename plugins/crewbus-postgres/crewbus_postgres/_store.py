"""The store: what the contract asks, by way of the writer, the reader and the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from crewbus import reentrant_lock
from crewbus.exceptions import CrewbusError, InputError, RecordingError, RunNotFoundError
from crewbus.stores import Backlog, Claim, Claimed, LogFilter, LogInfo, LogPart, LogSummary, Posted, Store, StoredEvent
from crewbus.stores.claims import check_due, check_first_events
from crewbus.stores.watching import Watching
from crewbus_postgres import _claims, _commit, _holders, _logs, _messages, _reader
from crewbus_postgres._commit import Notify
from crewbus_postgres._database import Database, Unavailable
from crewbus_postgres._events import checked, digest
from crewbus_postgres._holders import Holder
from crewbus_postgres._line import Line
from crewbus_postgres._logs import LogRow
from crewbus_postgres._reader import Reader
from crewbus_postgres._session import Session, quoted
from crewbus_postgres._writer import Writer, closed

LEASE: Final = 9.0
PATIENCE: Final = 60.0
BACKLOG: Final = 64 * 1024 * 1024
CONNECTIONS: Final = 8
TIMEOUT: Final = 30.0
LISTEN: Final = "auto"
CLOSING: Final = 5.0
"""Seconds to wait until the line has told what it is to tell."""
SCHEMA: Final = "crewbus"
PERIOD: Final = 0.1
"""Seconds between two looks for changes, while somebody watches."""


class PostgresStore(Store):
    """Records runs in the PostgreSQL database at ``url``, which processes on any number of hosts may use together.

    ``schema`` is the schema that its tables are in: the first write creates them. ``lease`` is the number of seconds
    for which a run stays held after its holder last renewed the lease, by the clock of the server. While the server
    can't be reached, events wait in memory, up to ``backlog`` bytes; after ``patience`` seconds of that they are
    rejected. ``connections`` limits the connections of this process; one more listens, unless ``listen`` is "off" or
    a pooler stands between. No answer of the server is waited for longer than ``timeout`` seconds. Raises
    `InputError` for a URL that can't be read and for options that are out of range. A forked child may use the store
    too: it starts without any run.
    """

    watches_logs = True

    def __init__(
        self,
        url: str,
        *,
        schema: str = SCHEMA,
        lease: float = LEASE,
        patience: float = PATIENCE,
        backlog: int = BACKLOG,
        connections: int = CONNECTIONS,
        timeout: float = TIMEOUT,
        listen: str = LISTEN,
    ) -> None:
        if not (
            0 < lease < float("inf")
            and 0 <= patience < float("inf")
            and backlog > 0
            and connections > 1
            and 0 < timeout < 1e6
        ):
            raise InputError(
                f"lease must be a number of seconds above 0, patience a number of seconds, backlog a number of bytes "
                f"above 0, connections 2 at least, and timeout a number of seconds above 0; got lease={lease}, "
                f"patience={patience}, backlog={backlog}, connections={connections}, timeout={timeout}"
            )
        if listen not in ("auto", "off"):
            raise InputError(f"listen is 'auto' or 'off'; got {listen!r}")
        quoted(schema)
        self.name: Final = _name_of(url)
        """What messages call the database: without the user and the password."""
        self.schema: Final = schema
        self._url, self._connections, self._listens = url, connections, listen != "off"
        self._timeout = timeout
        self._lease, self._patience, self._backlog = lease, patience, backlog
        self._set_up()

    def _set_up(self) -> None:
        self._database = Database(self._url, self.schema, self._connections, self._timeout, self.name)
        self._reader = Reader(self._database)
        self._snapshot: object = None
        self._watching = Watching(self._look, PERIOD, f"crewbus watch {self.name}")
        self._line = Line(
            self._database,
            listens=self._listens,
            changed=self._watching.notify,
            taken=self._recheck,
            presence=self._recheck,
        )
        self._holder = Holder(self._lease, lambda: self._line.live)
        self._writer = Writer(self._database, self._holder, self._line, self._patience, self._backlog)
        self._taking = reentrant_lock()
        """Held while logs are taken, until the writer knows them."""
        self._is_in_doubt = False
        """Whether logs may have been taken of which the writer does not know: the answer was lost."""
        self._closing = reentrant_lock()
        self._closed = False

    def _recheck(self) -> None:
        self._writer.look()

    def __repr__(self) -> str:
        return f"<PostgresStore {self.name!r} schema {self.schema!r}>"

    # Writing

    def begin(self, root_id: str) -> int:
        self._require_open()
        root_id = _logs.named(root_id)
        with self._database.reading() as session:
            if session is not None and session.rows("SELECT 1 FROM $s.runs WHERE key = %s", digest(root_id)):
                raise _logs.in_use(root_id)
        return self._writer.begin(root_id)

    def open_log(self, root_id: str) -> int:
        self._require_open()
        return self._writer.begin(_logs.named(root_id))

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        self._require_open()
        self._writer.append(root_id, epoch, event)

    def finish(self, root_id: str, epoch: int) -> None:
        self._require_open()
        if not self._writer.has(root_id):
            info = self.info(root_id)
            if info.sealed and info.epoch == epoch:
                return
        self._writer.finish(root_id, epoch)

    def flush(self, timeout: float | None = None) -> None:
        self._require_open()
        self._writer.flush(timeout)

    def when_written(self, root_id: str, notify: Notify) -> None:
        self._require_open()
        self._writer.when_written(root_id, notify)

    def backlog(self) -> Backlog:
        return self._writer.backlog

    # Reading

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        self._write_out(root_id)
        return self._reader.events(root_id, after)

    def landmarks(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        self._write_out(root_id)
        return self._reader.landmarks(root_id, after)

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        self._write_out(root_id)
        return self._reader.marks(root_id)

    def event(self, root_id: str, seq: int) -> StoredEvent:
        self._write_out(root_id)
        return self._reader.event(root_id, seq)

    def root_of(self, run_id: str) -> str | None:
        self._require_open()
        with self._database.reading() as session:
            query = "SELECT l.root_id FROM $s.runs r JOIN $s.logs l ON l.id = r.log WHERE r.key = %s"
            known = session is not None and _logs.is_text(run_id)
            for (root_id,) in session.rows(query, digest(run_id)) if session is not None and known else []:
                return str(root_id.decode())
        return self._writer.root_of(run_id)

    def roots(self) -> list[str]:
        self._write_out()
        with self._database.reading() as session:
            rows = [] if session is None else session.rows("SELECT root_id FROM $s.logs ORDER BY id")
            return [root_id.decode() for (root_id,) in rows]

    def info(self, root_id: str) -> LogInfo:
        self._write_out(root_id)
        with self._database.reading() as session:
            return _reader.info(session, root_id)[1]

    def summary(self, root_id: str) -> LogSummary:
        with self._finding(root_id) as (session, log):
            if log.last < 0:
                raise RunNotFoundError(f"run {root_id} has no events")
            return _reader.summaries(session, [_reader.info(session, root_id)])[0]

    def find(self, query: LogFilter) -> Iterator[LogSummary]:
        self._write_out()
        return _reader.find(self._database, query)

    def forks(self, root_id: str) -> list[str]:
        with self._finding(root_id) as (session, log):
            rows = session.rows("SELECT root_id FROM $s.logs WHERE parent = %s ORDER BY id", log.id)
            return [fork.decode() for (fork,) in rows]

    def parts(self, root_id: str) -> list[LogPart]:
        with self._finding(root_id) as (session, log):
            return [LogPart(part.root_id, part.first, part.last) for part in _logs.parts(session, log)]

    def shared(self, root_id: str) -> int:
        with self._finding(root_id) as (_, log):
            return log.parent_at

    # Leases and forks

    def acquire(self, root_id: str) -> int:
        with self._adopting() as taken, self._changing(root_id, first=self._give_back) as (session, log):
            self._holder.require_not_held(session, log)
            self._holder.renew(session)
            self._holder.clean_up(session)
            taken.extend(self._take(session, [log.id]))
        return taken[0].epoch

    @contextmanager
    def _adopting(self) -> Iterator[list[LogRow]]:
        """While logs are taken: yields a list for their rows, which are then written here."""
        taken = list[LogRow]()
        with self._taking:
            try:
                yield taken
            except Unavailable:
                self._is_in_doubt = True
                raise
            self._is_in_doubt = False
            for row in taken:
                self._writer.adopt(row)
        self._line.tell([row.id for row in taken], work=True, taken=any(row.epoch > 1 for row in taken))

    def _give_back(self, session: Session) -> None:
        """Release what was taken, if anything was, when the answer was lost."""
        if self._is_in_doubt:
            session.rows(
                "UPDATE $s.logs SET holder = NULL WHERE holder = %s AND id <> ALL(%b::bigint[]) "
                "AND (epoch > 1 OR maker IS DISTINCT FROM %s)",  # what the writer begins it may not know yet
                self._holder.token,
                self._writer.held(),
                self._holder.token,
            )

    def _take(self, session: Session, logs: list[int]) -> list[LogRow]:
        rows = session.rows(
            "UPDATE $s.logs l SET epoch = epoch + 1, sealed = false, holder = %s, stalls = stalls + 1, due = NULL, "
            f"known = messages WHERE id = ANY(%b::bigint[]) RETURNING {_logs.COLUMNS}",
            self._holder.token,
            logs,
        )
        return sorted(map(LogRow.load, rows))

    def release(self, root_id: str, epoch: int, until: float | None = None) -> None:
        self._require_open()
        check_due(root_id, until)
        if self._writer.find(root_id, epoch) is None:
            return
        with self._changing(root_id) as (session, log):
            session.rows(
                "UPDATE $s.logs SET holder = NULL, due = CASE WHEN messages = known THEN %s::float8 END "
                "WHERE id = %s AND epoch = %s",
                until,
                log.id,
                epoch,
            )
        self._writer.forget(root_id, epoch)
        self._line.tell([log.id], work=True)

    def revoke(self, root_id: str) -> None:
        with self._changing(root_id) as (session, log):
            session.rows("UPDATE $s.logs SET holder = NULL WHERE id = %s", log.id)
        self._line.tell([log.id], work=True)

    def has_lease(self, root_id: str, epoch: int) -> bool:
        return self._writer.has_lease(root_id, epoch)

    def confirm(self, root_id: str, epoch: int) -> None:
        self._require_open()
        if self._writer.writable(root_id, epoch) is None:
            return
        self._writer.wait_for(root_id)
        log = self._writer.writable(root_id, epoch)
        if log is None:
            return
        with self._database.writing() as session:
            error = _commit.loss(session, log)
            self._holder.renew(session)
        if error is not None:
            self._writer.lose(root_id, error)
            raise error

    def on_lost(self, notify: Callable[[str, int, CrewbusError], object]) -> Callable[[], None]:
        self._require_open()
        return self._writer.lost.add(notify)

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        fork_id, own = _logs.named(fork_id), [checked(event) for event in events]
        if [event.seq for event in own] != list(range(at + 1, at + 1 + len(own))):
            raise RecordingError(f"run {fork_id}: its first events do not continue from event {at}")
        self._write_out()  # logs are listed in the order in which they were begun
        with self._changing(root_id) as (session, log):
            if not 0 <= at <= log.last:
                raise RecordingError(f"run {root_id} has no event {at} to fork at: its last one is {log.last}")
            when = _reader.event_of(session, _reader.origin_of(session, log, at), at).at
            fork = LogRow(0, fork_id, 0, at, parent=log.id, parent_at=at, origin=log.origin, begun=when, at=when)
            fork_log = _logs.create(session, fork, own)
            _logs.set_labels(session, fork_log, _reader.event_of(session, log.origin, 0))

    # Work that anyone may take, and messages to it

    def create(self, root_id: str, events: Sequence[StoredEvent], until: float | None = None) -> None:
        root_id, own = _logs.named(root_id), [checked(event) for event in events]
        check_due(root_id, until)
        check_first_events(root_id, own)
        self._write_out()  # logs are listed in the order in which they were begun
        with self._database.writing() as session:
            log = _logs.create(session, LogRow(0, root_id, due=until), own)
            _logs.set_labels(session, log, own[0])
        self._line.tell(work=True)

    def claim(self, claim: Claim) -> list[Claimed]:
        self._write_out()
        with self._database.reading() as session:  # who finds nothing keeps nobody waiting
            found = session is not None and next(_claims.candidates(session, claim, self._holder.token), None)
            if not (found or self._is_in_doubt):
                return []
        with self._adopting() as taken, self._database.writing() as session:
            self._give_back(session)
            chosen = _claims.choose(session, claim, self._holder.token)
            if chosen:
                self._holder.renew(session)
            taken.extend(self._take(session, chosen))
        return [Claimed(row.root_id, row.epoch) for row in taken]

    def post(self, root_id: str, channel: str, data: bytes, key: str | None = None) -> int:
        _messages.check(root_id, channel, key)
        with self._changing(root_id) as (session, log):
            number = _messages.add(session, log, channel, data, key)
        self._line.tell([log.id], work=True)
        return number

    def posted(self, root_id: str, after: int = -1) -> list[Posted]:
        with self._finding(root_id) as (session, log):
            return _messages.load(session, log, after)

    def mail(self, after: Mapping[str, int]) -> dict[str, list[Posted]]:
        self._require_open()
        with self._database.reading() as session:
            return {} if session is None else _messages.load_all(session, after)

    def watch(self, notify: Callable[[], object]) -> Callable[[], None]:
        self._require_open()
        return self._watching.add(notify)

    def watch_log(self, root_id: str, notify: Callable[[], object]) -> Callable[[], None]:
        self._write_out(root_id)
        return self._line.watch_log(root_id, notify) or self.watch(notify)

    def watch_work(self, notify: Callable[[], object]) -> Callable[[], None]:
        self._require_open()
        return self._line.watch_work(notify)

    def _look(self) -> bool:
        """Whether any transaction of the server has ended since the last look."""
        before = self._snapshot
        with self._database.session() as session:
            self._snapshot = session.rows("SELECT pg_current_snapshot()::text")
        return self._snapshot != before

    def drop(self, root_id: str) -> None:
        with self._changing(root_id) as (session, log):
            if _holders.alive(session, log, self._holder.token):
                raise RecordingError(f"run {root_id} is live: its record can't be dropped")
            forks = session.rows("SELECT root_id FROM $s.logs WHERE parent = %s ORDER BY id LIMIT 3", log.id)
            if forks:
                named = ", ".join(fork.decode() for (fork,) in forks)
                raise RecordingError(f"run {root_id} is needed by its forks: drop {named} first")
            for table in ("events", "runs", "labels", "messages"):
                session.rows(f"DELETE FROM $s.{table} WHERE log = %s", log.id)
            session.rows("DELETE FROM $s.logs WHERE id = %s", log.id)
        self._line.tell([log.id])

    # Closing and forking

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._watching.close()
        self._writer.stop_accepting()
        try:
            self._writer.flush(self._patience)
        finally:
            self._writer.close()
            if not self._writer.is_failing:
                with suppress(CrewbusError):
                    self._release_all()
            self._line.close(CLOSING)
            self._database.close()

    def after_fork(self) -> None:
        self._inherited = self._database  # its connections are the parent's
        self._set_up()

    def _release_all(self) -> None:
        with self._database.reading() as session:
            if session is None:
                return
            released = session.rows(
                "UPDATE $s.logs SET holder = NULL WHERE holder = %s RETURNING id", self._holder.token
            )
            self._line.tell([log for (log,) in released], work=bool(released))
            session.rows("DELETE FROM $s.holders WHERE token = %s", self._holder.token)

    def _write_out(self, root_id: str | None = None) -> None:
        self._require_open()
        self._writer.wait_for(root_id)

    @contextmanager
    def _finding(self, root_id: str) -> Iterator[tuple[Session, LogRow]]:
        """A session and a log, after all earlier writes to it; raises `RunNotFoundError`."""
        self._write_out(root_id)
        with self._database.reading() as session:
            log = _logs.find(session, root_id)
            assert session is not None
            yield session, log

    @contextmanager
    def _changing(
        self, root_id: str, first: Callable[[Session], object] = lambda _: None
    ) -> Iterator[tuple[Session, LogRow]]:
        """A transaction on a log that is locked, after all earlier writes to it; raises `RunNotFoundError`.

        ``first`` is called before.
        """
        with self._finding(root_id):  # does not create the tables
            pass
        with self._database.writing() as session:
            first(session)
            yield session, _logs.find(session, root_id, lock=True)

    def _require_open(self) -> None:
        if self._closed:
            raise closed(self._database)


def _name_of(url: str) -> str:
    """What a database is called without the user and the password; raises `InputError` for a URL that is none."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:  # its message may contain the password
        parts = {}
        invalid = True
    else:
        invalid = False
    if invalid:
        raise InputError("a PostgreSQL store is postgresql://USER:PASSWORD@HOST:PORT/DATABASE; this URL can't be read")
    port = parts.get("port")
    where = f"{parts.get('host') or ''}{'' if port is None else f':{port}'}"
    return f"postgresql://{where}/{parts.get('dbname') or ''}"
