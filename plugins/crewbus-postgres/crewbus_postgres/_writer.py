"""The writer thread: each statement writes everything that was queued meanwhile, for all logs."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import partial
from typing import Final

from crewbus import reentrant_lock
from crewbus.exceptions import CrewbusError, FencedError, FlushTimeoutError, RecordingError, StoreFullError
from crewbus.stores import Backlog, StoredEvent
from crewbus.stores.watching import Watchers
from crewbus_postgres import _commit, _logs
from crewbus_postgres._commit import Batch, Log, Notify
from crewbus_postgres._database import Database, Unavailable
from crewbus_postgres._events import checked
from crewbus_postgres._holders import RENEWALS, Holder
from crewbus_postgres._line import Line
from crewbus_postgres._logs import LogRow

GATHERING: Final = 0.02
LONGEST_GATHERING: Final = 0.1
"""Seconds to collect events for one statement, unless a caller waits for them."""
WATCHED_GATHERING: Final = 0.004
"""The same while somebody watches."""
OVERHEAD: Final = 400
"""Bytes that a queued event takes besides its JSON, estimated."""
MOST_EVENTS: Final = 2000
MOST_BYTES: Final = 4 * 1024 * 1024
"""The most events and bytes of one statement; a single event may be larger."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two tries while the server can't be reached."""

Call = tuple[Notify, BaseException | None]


class Writer:
    """Queues writes in memory, and writes them to the database from its own thread, which also renews the leases.

    While the server can't be reached it tries again. After ``patience`` seconds of that it rejects events and fails
    those who wait, until a try succeeds; ``bound`` are the bytes of events that may be queued meanwhile.
    """

    def __init__(self, database: Database, holder: Holder, line: Line, patience: float, bound: int) -> None:
        self._database = database
        self._holder = holder
        self._line = line
        self._patience = patience
        self._bound = bound
        self._backlog = self._backlog_events = 0
        self._queued_since: float | None = None
        self._lock = reentrant_lock()
        self._changed = threading.Condition(self._lock)
        self._logs: dict[str, Log] = {}
        self._queued: dict[Log, None] = {}
        self._runs: dict[str, str] = {}
        self._last_ticket = self._written_ticket = 0
        self._tries = self._failed_try = 0
        self._failure: RecordingError | None = None
        self._failing_since: float | None = None
        self._pause = FIRST_PAUSE
        self._losses: list[CrewbusError] = []
        self.lost: Final = Watchers()
        """Who is told of each log that another process took or dropped."""
        self._renew_at = 0.0
        self._gathering = GATHERING
        self._hurry = self._writing = self._rejecting = self._closed = False
        self._thread: threading.Thread | None = None

    # Queueing, which never waits

    def begin(self, root_id: str) -> int:
        """Open a new log and return its epoch."""
        with self._lock:
            self._require_working()
            known = self._logs.get(root_id)
            if known is not None and known.error is not None:
                self._forget(root_id)
            if root_id in self._runs:
                raise _logs.in_use(root_id)
            log = Log(LogRow(0, root_id, 1), 1, runs={root_id})
            self._logs[root_id], self._runs[root_id] = log, root_id
            self._queue(log)
            return log.epoch

    def adopt(self, row: LogRow) -> None:
        """Write to a log that was just acquired, with a lease that was just renewed."""
        with self._lock:
            self._forget(row.root_id)
            self._logs[row.root_id] = Log(row, row.epoch, taken_to=row.last)
            self._renew_at = time.monotonic() + self._holder.lease / RENEWALS
            self._start()
            self._changed.notify_all()

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        """Queue an event."""
        with self._lock:
            log = self._writable(root_id, epoch)
            if event.seq <= log.last:
                return
            if event.seq != log.last + 1:
                raise RecordingError(f"run {root_id}: event {event.seq} would leave a gap after {log.last}")
            self._require_working()
            event = checked(event)
            size = len(event.data) + OVERHEAD
            self._require_room(size)
            if event.run_id not in log.runs:
                log.runs.add(event.run_id)
                log.new_runs.append((event.seq, event.run_id))
                self._runs.setdefault(event.run_id, root_id)
            log.size += size
            self._backlog += size
            self._backlog_events += 1
            log.events.append(event)
            self._queue(log)

    def finish(self, root_id: str, epoch: int) -> None:
        """Queue the sealing of a log."""
        with self._lock:
            known = self._logs.get(root_id)
            if known is not None and known.epoch == epoch and known.finishing:
                return
            try:
                log = self._writable(root_id, epoch)
            except CrewbusError:
                if known is not None and known.epoch == epoch and known.error is not None:
                    self._forget(root_id)
                raise
            log.finishing = True
            self._queue(log)

    def forget(self, root_id: str, epoch: int) -> None:
        """Stop writing to a log."""
        with self._lock:
            log = self._logs.get(root_id)
            if log is not None and log.epoch == epoch:
                self._forget(root_id)

    def look(self) -> None:
        """Renew the leases, and look whether a log was lost."""
        with self._lock:
            self._renew_at = 0.0
            self._changed.notify_all()

    def lose(self, root_id: str, error: CrewbusError) -> None:
        """Note that a log was lost to another process."""
        with self._lock:
            log = self._logs.get(root_id)
            if log is not None:
                self._drop_queued(log, error)
                self._notify([self._told_of(log, error)])

    def has_lease(self, root_id: str, epoch: int) -> bool:
        """Whether no other process can have taken a log, as far as this store knows by itself."""
        log = self._logs.get(root_id)
        if log is None:
            return True
        if log.epoch != epoch or log.error is not None:
            return False
        return log.row.id == 0 or self._holder.is_certain

    def root_of(self, run_id: str) -> str | None:
        """The root run whose log, written here, contains a run; or None."""
        return self._runs.get(run_id)

    def find(self, root_id: str, epoch: int | None = None) -> Log | None:
        """The log that is written here, with that epoch if one is given; None if it was lost."""
        with self._lock:
            log = self._logs.get(root_id)
            return log if log is not None and log.error is None and epoch in (None, log.epoch) else None

    def held(self) -> list[int]:
        """The ids of the logs that are written here."""
        with self._lock:
            return [log.row.id for log in self._logs.values() if log.row.id]

    def writable(self, root_id: str, epoch: int) -> Log | None:
        """The log if it is known here; raises the error by which it can't be written with that epoch."""
        with self._lock:
            return self._writable(root_id, epoch) if root_id in self._logs else None

    def has(self, root_id: str) -> bool:
        """Whether a log is known here and not sealed."""
        return root_id in self._logs

    @property
    def backlog(self) -> Backlog:
        """What waits to be written."""
        since = self._queued_since
        seconds = 0.0 if since is None else max(0.0, time.monotonic() - since)
        return Backlog(self._backlog_events, self._backlog, seconds)

    # Waiting

    def wait_for(self, root_id: str | None = None, timeout: float | None = None) -> None:
        """Return when the queued writes of a log, or of all, are written; raises the error that prevents it."""
        with self._lock:
            log = None if root_id is None else self._logs.get(root_id)
            ticket = self._last_ticket if root_id is None else 0 if log is None else log.ticket
            deadline = None if timeout is None else time.monotonic() + timeout
            tried = self._tries
            while self._written_ticket < ticket:
                if self._has_given_up and self._failure is not None and self._failed_try > tried:
                    raise _copy_of(self._failure)
                self._wake()
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise FlushTimeoutError(
                        f"{self._backlog_events} events are not written to {self._database.name} yet"
                    )
                if self._thread is None and not self._writing:
                    self._write_here()
                else:
                    self._changed.wait(remaining)

    def flush(self, timeout: float | None) -> None:
        """Like `wait_for` all logs; also raises the errors of logs lost to other processes since the last call."""
        self.wait_for(None, timeout)
        with self._lock:
            losses, self._losses = self._losses, []
        if losses:
            error = _copy_of(losses[0])
            for other in losses[1:]:
                error.add_note(f"and: {other}")
            raise error

    def when_written(self, root_id: str, notify: Notify) -> None:
        """Call ``notify`` when the queued writes of a log are written, or have failed."""
        with self._lock:
            log = self._logs.get(root_id)
            error = None if log is None else log.error
            if log is not None and error is None and log.ticket > self._written_ticket:
                log.waiting.append((log.ticket, notify))
                self._wake()
                return
        notify(error)

    def stop_accepting(self) -> None:
        """Reject all further writes."""
        with self._lock:
            self._rejecting = True

    def close(self) -> None:
        """Stop the thread. Writes that are still queued are lost."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join(self._patience)

    @property
    def is_failing(self) -> bool:
        """Whether the last write failed."""
        return self._failure is not None

    # Under the lock

    @property
    def _has_given_up(self) -> bool:
        since = self._failing_since
        return since is not None and time.monotonic() - since >= self._patience

    def _writable(self, root_id: str, epoch: int) -> Log:
        if self._rejecting:
            raise closed(self._database)
        log = self._logs.get(root_id)
        if log is not None and log.epoch > epoch:
            raise FencedError(
                f"run {root_id} was taken over with epoch {log.epoch}: writes with epoch {epoch} are rejected"
            )
        if log is None or log.epoch != epoch or log.finishing:
            raise RecordingError(f"run {root_id} has no open record with epoch {epoch} in this store")
        if log.error is not None:
            raise _copy_of(log.error)
        return log

    def _require_working(self) -> None:
        if self._rejecting:
            raise closed(self._database)
        if self._has_given_up and self._failure is not None:
            self._wake()
            raise _copy_of(self._failure)

    def _require_room(self, size: int) -> None:
        if self._backlog + size > self._bound:
            self._wake()
            raise StoreFullError(
                f"{self._backlog} bytes wait to be written to {self._database.name}, and {size} more would be over the "
                f"bound of {self._bound}: emit no faster than the server writes, or give the store a larger backlog"
            )
        if self._backlog > self._bound // 4 and not self._hurry:
            self._wake()

    def _queue(self, log: Log) -> None:
        self._last_ticket += 1
        log.ticket = self._last_ticket
        if self._queued_since is None:
            self._queued_since = time.monotonic()
        if log not in self._queued:
            self._queued[log] = None
            self._start()
            self._changed.notify_all()

    def _wake(self) -> None:
        self._hurry = True
        self._changed.notify_all()

    def _forget(self, root_id: str) -> None:
        log = self._logs.pop(root_id, None)
        for run_id in log.runs if log is not None else ():
            if self._runs.get(run_id) == root_id:
                del self._runs[run_id]

    def _drop_queued(self, log: Log, error: CrewbusError) -> None:
        log.error = error
        self._backlog -= log.size
        self._backlog_events -= len(log.events)
        log.events.clear()
        log.size = 0
        self._queued.pop(log, None)

    def _start(self) -> None:
        self._line.start()
        if self._thread is not None or self._closed:
            return
        thread = threading.Thread(target=self._work, name=f"crewbus {self._database.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is exiting: `wait_for` writes in its caller's thread
            return
        self._thread = thread

    # In the thread

    def _work(self) -> None:
        with self._lock:
            while self._is_take_due():
                self._write_here()

    def _is_take_due(self) -> bool:
        """Wait until there is something to write or to renew; False once the store is closed."""
        if self._failure is not None:
            self._changed.wait_for(lambda: self._closed, self._pause)
            return not self._closed
        while not (self._closed or self._queued) and self._until_renewal() != 0.0:
            self._changed.wait(self._until_renewal())
        if not self._hurry and not self._closed and self._queued:
            self._changed.wait_for(lambda: self._hurry or self._closed, self._gathering)
        return not self._closed

    def _until_renewal(self) -> float | None:
        return max(0.0, self._renew_at - time.monotonic()) if self._logs else None

    def _write_here(self) -> None:
        """Write what is queued. The caller holds the lock, which is released meanwhile."""
        self._hurry, self._writing = False, True
        self._tries += 1
        tried = self._tries
        batches, ticket, since = self._take()
        idle = self._idle()
        self._lock.release()
        failure: RecordingError | None = None
        started = time.monotonic()
        try:
            failure = self._commit(batches, idle)
        finally:
            self._lock.acquire()
            self._writing = False
        self._failed_try = tried if failure is not None else 0
        watched = [batch.row.id for batch in batches if batch.is_watched]
        self._gathering = _gathering(time.monotonic() - started, is_watched=bool(watched))
        self._line.tell(watched, work=failure is None and any(batch.seals for batch in batches))
        calls = self._failed(batches, failure, since) if failure is not None else self._done(batches, ticket)
        self._changed.notify_all()
        self._notify(calls)

    def _take(self) -> tuple[list[Batch], int, float | None]:
        """Take what one statement may write; returns it, the ticket up to which all is taken, and since when."""
        batches, events, size = list[Batch](), 0, 0
        for log in list(self._queued):
            room = MOST_EVENTS - events
            if room <= 0 or size >= MOST_BYTES:
                break
            count, bytes_ = 0, 0
            while count < min(room, len(log.events)) and size + bytes_ < MOST_BYTES:
                bytes_ += len(log.events[count].data) + OVERHEAD
                count += 1
            taken, log.events = log.events[:count], log.events[count:]
            log.size -= bytes_
            if taken:
                log.taken_to = taken[-1].seq
            runs = [(seq, run) for seq, run in log.new_runs if seq <= log.taken_to]
            log.new_runs = log.new_runs[len(runs) :]
            batches.append(Batch(log, taken, runs, bytes_, log.finishing and not log.events, log.row))
            events, size = events + count, size + bytes_
            if not log.events:
                del self._queued[log]
        # Tickets are given in the order of queueing, but a log keeps its place when it is queued again.
        since, self._queued_since = self._queued_since, None
        if self._queued:
            self._queued_since, self._hurry = since, True
            return batches, self._written_ticket, since
        return batches, self._last_ticket, since

    def _idle(self) -> list[Batch]:
        """The logs of which nothing is written, if they are to be looked at: they may have been lost."""
        if time.monotonic() < self._renew_at:
            return []
        logs = (log for log in self._logs.values() if log.row.id and log.error is None and not log.finishing)
        return [Batch(log, [], [], 0, False, log.row) for log in logs if not log.events and log.last == log.row.last]

    def _commit(self, batches: list[Batch], idle: list[Batch]) -> RecordingError | None:
        renews = time.monotonic() >= self._renew_at or any(not batch.row.id for batch in batches)
        if not batches and not (renews and self._logs):
            return None
        try:
            with self._database.session() as session:
                self._database.prepare(session)
                if renews:
                    self._holder.renew(session)
                    self._renew_at = time.monotonic() + self._holder.lease / RENEWALS
                if batches:
                    _commit.write(session, batches, self._holder.token)
                batches += _commit.lost(session, idle)
        except RecordingError as error:
            return error
        except Exception as error:
            return RecordingError(f"{self._database.name}: {type(error).__name__}: {error}")
        return None

    def _notify(self, calls: list[Call]) -> None:
        self._lock.release()
        try:
            for notify, error in calls:
                with suppress(Exception):  # a callback that raises must not prevent the others
                    notify(error)
        finally:
            self._lock.acquire()

    def _done(self, batches: list[Batch], ticket: int) -> list[Call]:
        self._failure = self._failing_since = None
        self._pause = FIRST_PAUSE
        self._written_ticket = max(self._written_ticket, ticket)
        calls = list[Call]()
        for batch in batches:
            log = batch.log
            self._backlog -= batch.size
            self._backlog_events -= len(batch.events)
            if batch.error is not None:
                if batch.events or batch.seals or log.events:
                    self._losses.append(batch.error)
                self._drop_queued(log, batch.error)
                calls.append(self._told_of(log, batch.error))
                continue
            log.row = batch.row
            if batch.seals and self._logs.get(log.row.root_id) is log:
                self._forget(log.row.root_id)
        return calls + [call for batch in batches for call in _take_due(batch.log, self._written_ticket)]

    def _told_of(self, log: Log, error: CrewbusError) -> Call:
        return partial(self.lost.notify, log.row.root_id, log.epoch), error

    def _failed(self, batches: list[Batch], failure: RecordingError, since: float | None) -> list[Call]:
        for batch in batches:
            batch.log.events[:0] = batch.events
            batch.log.new_runs[:0] = batch.runs
            batch.log.size += batch.size
        self._queued = dict.fromkeys(batch.log for batch in batches) | self._queued
        self._queued_since = since or self._queued_since
        self._failure, self._pause = failure, min(2 * self._pause, LONGEST_PAUSE)
        if self._failing_since is None:
            lasting = not isinstance(failure, Unavailable)  # trying again would not help
            self._failing_since = time.monotonic() - (self._patience if lasting else 0.0)
        if not self._has_given_up:
            return []
        return [(notify, failure) for log in self._logs.values() for notify, _ in _take_due(log, self._last_ticket)]


def _gathering(took: float, *, is_watched: bool) -> float:
    """For how long to collect events after a statement that took so many seconds."""
    if is_watched:
        return min(max(WATCHED_GATHERING, took), GATHERING)
    return min(max(GATHERING, 4 * took), LONGEST_GATHERING)


def _take_due(log: Log, ticket: int) -> list[Call]:
    """Remove and return the callbacks that are due, with what they receive."""
    now = [notify for at, notify in log.waiting if at <= ticket or log.error is not None]
    log.waiting = [(at, notify) for at, notify in log.waiting if at > ticket and log.error is None]
    return [(notify, log.error) for notify in now]


def closed(database: Database) -> RecordingError:
    """The error of a store that was closed."""
    return RecordingError(f"the store {database.name} is closed")


def _copy_of(error: CrewbusError) -> CrewbusError:
    """A copy to raise, since each raise adds to the traceback."""
    return type(error)(*error.args)
