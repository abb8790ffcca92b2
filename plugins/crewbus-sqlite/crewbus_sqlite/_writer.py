"""The writer thread: each transaction writes everything that was queued meanwhile, for all logs."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from crewbus import reentrant_lock
from crewbus.exceptions import CrewbusError, FencedError, FlushTimeoutError, RecordingError, StoreFullError
from crewbus.stores import Backlog, StoredEvent
from crewbus.stores.liveness import CERTAIN, clock
from crewbus.stores.watching import Watchers
from crewbus_sqlite import _tails
from crewbus_sqlite._changes import Change
from crewbus_sqlite._commit import Batch, Call, Log, Notify
from crewbus_sqlite._database import Database, closed
from crewbus_sqlite._errors import copy_of
from crewbus_sqlite._events import checked, is_like
from crewbus_sqlite._gathering import gathering
from crewbus_sqlite._holders import Holders
from crewbus_sqlite._logs import in_use
from crewbus_sqlite._transactions import Transactions

OVERHEAD: Final = 400
"""Bytes that a queued event takes besides its JSON, estimated."""

T = TypeVar("T")


class Writer:
    """Queues writes in memory, and writes them to the database from its own thread.

    The thread starts with the first write. It also renews this store's lease.
    """

    def __init__(self, database: Database, holders: Holders, lease: float, backlog: int) -> None:
        self._database = database
        self._holders = holders
        self._transactions = Transactions(database, holders)
        self._lease = lease
        self._bound = backlog
        self._backlog = self._backlog_events = 0
        """The bytes of the events that are not on disk yet, and how many they are."""
        self._queued_since: float | None = None
        """Since when the oldest event is queued, by `time.monotonic`; likewise of those that are being written."""
        self._writing_since: float | None = None
        # Entered directly: its `with` is C code, which a signal can't interrupt, and a Condition's is not.
        self._lock = reentrant_lock()
        self._changed = threading.Condition(self._lock)
        self._logs: dict[str, Log] = {}
        self._queued: dict[Log, None] = {}
        self._changes: list[Change[Any]] = []
        self._runs: dict[str, str] = {}
        self._last_ticket = self._written_ticket = 0
        self._tries = 0
        self._failure: RecordingError | None = None
        self._failed_try = 0
        self._losses: list[CrewbusError] = []
        self.lost: Final = Watchers()
        """Who is told of each log that another process took or dropped."""
        self._renew_at = 0.0
        self._gathering = gathering(0.0)
        self._idle = False
        self._hurry = False
        self._writing = False
        self._rejecting = False
        self._closed = False
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
                raise in_use(root_id)
            log = Log(root_id, 1, clock(), runs={root_id})
            self._logs[root_id], self._runs[root_id] = log, root_id
            self._queue(log)
            return log.epoch

    def adopt(self, log: Log, renewed: float) -> None:
        """Write to a log that was just acquired, and whose lease was just renewed, at a time of `clock`."""
        with self._lock:
            self._forget(log.root_id)
            self._logs[log.root_id] = log
            self._holders.presence.renewed(renewed)
            self._renew_at = time.monotonic() + self._lease / 3
            self._start()
            self._wake()  # the thread has to renew the lease from now on

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        """Queue an event."""
        with self._lock:
            log = self._writable(root_id, epoch)
            last = log.last
            if event.seq != last + 1:
                if event.seq <= last:
                    return
                raise RecordingError(f"run {root_id}: event {event.seq} would leave a gap after {last}")
            self._require_working()
            if log.like is None or not is_like(event, log.like):
                event = log.like = checked(event)
            size = len(event.data) + OVERHEAD
            self._require_room(size)
            if event.run_id not in log.runs:
                log.runs.add(event.run_id)
                log.new_runs.append(event.run_id)
                self._runs.setdefault(event.run_id, root_id)
            log.size += size
            self._backlog_events += 1
            if self._queued_since is None:
                self._queued_since = time.monotonic()
            log.events.append(event)  # atomic for interrupts
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
                self._forget_lost(root_id, epoch)
                raise
            log.finishing = True
            self._queue(log)

    def forget(self, root_id: str, epoch: int) -> None:
        """Stop writing to a log."""
        with self._lock:
            log = self._logs.get(root_id)
            if log is not None and log.epoch == epoch:
                self._forget(root_id)

    def has_written(self, root_id: str, seq: int) -> bool:
        """Whether an event of a log is on disk, while later ones are queued."""
        log = self._logs.get(root_id)
        return log is not None and log.error is None and seq <= log.written_to < log.last

    def has_lease(self, root_id: str, epoch: int) -> bool:
        """Whether no other process can have taken a log, as far as this store knows by itself.

        True for a log that is not written here: `append` refuses its events.
        """
        log = self._logs.get(root_id)
        if log is None:
            return True
        if log.epoch != epoch or log.error is not None:
            return False
        if log.id is None:  # it is not on disk, so that nobody can take it, or was not when this process was stopped
            return clock() - log.held_at < CERTAIN * self._lease
        return self._holders.presence.lasts(log.held_at)

    def confirm(self, root_id: str, epoch: int) -> None:
        """Renew the lease in a transaction that finds a log as this store left it; raises the error if it is lost."""
        with self._lock:
            if root_id not in self._logs:
                return
            log = self._writable(root_id, epoch)
            self._renew_at = 0.0
            self._queue(log)
            self._wait(log.ticket, None)
            if log.error is not None:
                raise copy_of(log.error)

    def root_of(self, run_id: str) -> str | None:
        """The root run whose log, written here, contains a run; or None."""
        return self._runs.get(run_id)

    def has(self, root_id: str) -> bool:
        """Whether a log is known here and not sealed."""
        return root_id in self._logs

    def holds(self, root_id: str, epoch: int | None = None) -> bool:
        """Whether a log is written here, with that epoch if one is given."""
        with self._lock:
            log = self._logs.get(root_id)
            return log is not None and log.error is None and epoch in (None, log.epoch)

    # Waiting

    def wait_for(self, root_id: str | None = None, timeout: float | None = None) -> None:
        """Return when the queued writes of a log, or of all, are on disk; raises the error that prevents it."""
        with self._lock:
            if root_id is None:
                ticket = self._last_ticket
            elif (log := self._logs.get(root_id)) is not None:
                if log.events and log not in self._queued:  # `append` was interrupted before it queued the log
                    self._queue(log)
                ticket = log.ticket
            else:
                return
            self._wait(ticket, timeout)

    def change(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Perform ``operation`` in a transaction after all that is queued, and return its result once that is on disk.

        Callers at the same time share the transaction; the error of one is raised to that one. If the transaction
        fails, so does the call, and nothing of it is tried again.
        """

        def translated(connection: sqlite3.Connection) -> T:
            with self._database.translating_errors():
                return operation(connection)

        change = Change(translated)
        with self._lock:
            if self._rejecting:
                raise closed(self._database.path)
            self._changes.append(change)
            self._start()
            while not change.done:
                self._wait_for_write(None)
        return change.result()

    def flush(self, timeout: float | None) -> None:
        """Like `wait_for` all logs; also raises the errors of logs lost to other processes since the last call."""
        self.wait_for(None, timeout)
        with self._lock:
            losses, self._losses = self._losses, []
        if losses:
            error = copy_of(losses[0])
            for other in losses[1:]:
                error.add_note(f"and: {other}")
            raise error

    def when_written(self, root_id: str, notify: Notify) -> None:
        """Call ``notify`` when the queued writes of a log are on disk, or have failed."""
        with self._lock:
            log = self._logs.get(root_id)
            error = None if log is None else log.error
            if log is not None and error is None and log.ticket > self._written_ticket:
                log.waiting.append((log.ticket, notify))
                self._wake()
                return
        notify(error)

    def settle(self) -> None:
        """Have the next write put what logs have in tails into their own rows."""
        with self._lock:
            if self._transactions.tails:
                self._transactions.tails = _tails.MOST
                for log in self._logs.values():
                    if log.has_tail and log.error is None:
                        self._queue(log)

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
            thread.join()

    @property
    def is_failing(self) -> bool:
        """Whether the database can't be written to."""
        return self._failure is not None

    @property
    def backlog(self) -> Backlog:
        """What waits to be written. Nothing is waited for here, so that what is added meanwhile may be missing."""
        since = self._writing_since or self._queued_since
        seconds = 0.0 if since is None else max(0.0, time.monotonic() - since)
        return Backlog(self._backlog_events, self._backlog, seconds)

    def held(self) -> list[Log]:
        """The logs that are written here."""
        with self._lock:
            return [log for log in self._logs.values() if log.error is None]

    def _wait(self, ticket: int, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        tried = self._tries
        while self._written_ticket < ticket:
            if self._failure is not None and self._failed_try > tried:
                raise copy_of(self._failure)
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise FlushTimeoutError(
                    f"{sum(len(log.events) for log in self._queued)} events are not written to "
                    f"{self._database.path} yet"
                )
            self._wait_for_write(remaining)

    def _wait_for_write(self, timeout: float | None) -> None:
        """Have the thread write at once, and wait until it has, or something else has changed."""
        self._wake()
        if self._thread is None and not self._writing:
            self._write_here()
        else:
            self._changed.wait(timeout)

    # Under the lock

    def _writable(self, root_id: str, epoch: int) -> Log:
        if self._rejecting:
            raise closed(self._database.path)
        log = self._logs.get(root_id)
        if log is not None and log.epoch > epoch:
            raise FencedError(
                f"run {root_id} was taken over with epoch {log.epoch}: writes with epoch {epoch} are rejected"
            )
        if log is None or log.epoch != epoch or log.finishing:
            raise RecordingError(f"run {root_id} has no open record with epoch {epoch} in this store")
        if log.error is not None:
            raise copy_of(log.error)
        return log

    def _require_working(self) -> None:
        if self._rejecting:
            raise closed(self._database.path)
        if self._failure is not None:
            self._wake()
            raise copy_of(self._failure)

    def _require_room(self, size: int) -> None:
        if self._backlog + size > self._bound:
            self._wake()
            raise StoreFullError(
                f"{self._backlog} bytes wait to be written to {self._database.path}, and {size} more would be over the "
                f"bound of {self._bound}: emit no faster than the disk writes, or give the store a larger backlog"
            )
        self._backlog += size
        if self._backlog > self._bound // 4 and not self._hurry:
            self._wake()

    def _queue(self, log: Log) -> None:
        self._last_ticket += 1
        log.ticket = self._last_ticket
        if log not in self._queued:
            self._queued[log] = None
            self._start()
            if self._idle:
                self._changed.notify_all()

    def _wake(self) -> None:
        self._hurry = True
        self._changed.notify_all()

    def _forget(self, root_id: str) -> None:
        log = self._logs.pop(root_id, None)
        for run_id in log.runs if log is not None else ():
            if self._runs.get(run_id) == root_id:
                del self._runs[run_id]

    def _forget_lost(self, root_id: str, epoch: int) -> None:
        log = self._logs.get(root_id)
        if log is not None and log.epoch == epoch and log.error is not None:
            self._forget(root_id)

    def _start(self) -> None:
        if self._thread is not None or self._closed:
            return
        name = f"crewbus sqlite {self._database.path.name}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is exiting: `flush` writes in its caller's thread
            return
        self._thread = thread

    # In the thread

    def _work(self) -> None:
        with self._lock:
            while self._is_take_due():
                self._write_here()

    def _is_take_due(self) -> bool:
        """Wait until there is something to write or to renew; False once the store is closed."""
        self._idle = True
        self._changed.wait_for(self._has_work, self._until_renewal())
        self._idle = False
        if not self._hurry and not self._closed:
            self._changed.wait_for(lambda: self._hurry or self._closed, self._gathering)
        return not self._closed

    def _has_work(self) -> bool:
        return self._closed or self._hurry or (bool(self._queued) and self._failure is None)

    def _until_renewal(self) -> float | None:
        return max(0.0, self._renew_at - time.monotonic()) if self._logs else None

    def _write_here(self) -> None:
        """Write what is queued. The caller holds the lock, which is released meanwhile."""
        self._hurry, self._writing = False, True
        self._tries += 1
        if time.monotonic() >= self._renew_at:
            self._queue_held()
        tried, ticket = self._tries, self._last_ticket
        settles = self._transactions.settles
        if settles:
            self._queued |= {log: None for log in self._logs.values() if log.has_tail and log.error is None}
        batches = [log.take_batch() for log in self._queued]
        changes, self._changes = self._changes, []
        self._queued = {}
        self._writing_since, self._queued_since = self._queued_since, None
        failure: RecordingError | None = RecordingError(f"the write to {self._database.path} was interrupted")
        self._lock.release()
        started = time.monotonic()
        try:
            failure = self._commit(batches, changes, settles)
        finally:
            self._lock.acquire()
            self._writing = False
            for change in changes:
                change.end(None if failure is None else copy_of(failure))
            self._gathering = gathering(time.monotonic() - started)
        calls = self._failed(batches, failure, tried) if failure is not None else self._done(batches, ticket)
        self._changed.notify_all()
        self._notify(calls)

    def _queue_held(self) -> None:
        """Have each log looked at of which nothing is queued: it may have been lost."""
        for log in self._logs.values():
            if log.id is not None and log.error is None:
                self._queue(log)

    def _commit(self, batches: list[Batch], changes: list[Change[Any]], settles: bool) -> RecordingError | None:
        renews = time.monotonic() >= self._renew_at or any(batch.log.id is None for batch in batches)
        if not batches and not changes and not (renews and self._logs):
            return None
        try:
            self._transactions.write(batches, changes, settles=settles, renews=renews)
        except RecordingError as error:
            return error
        except Exception as error:
            return RecordingError(f"{self._database.path}: {type(error).__name__}: {error}")
        finally:
            if renews:
                self._renew_at = time.monotonic() + self._lease / 3
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
        self._failure = None
        self._written_ticket = ticket
        self._writing_since = None
        calls = list[Call]()
        for batch in batches:
            self._settle(batch.size, len(batch.events))
            if batch.error is not None:
                self._settle(batch.log.size, len(batch.log.events))
                self._queued.pop(batch.log, None)
                if batch.writes or batch.log.events:
                    self._losses.append(batch.error)
                calls.append((partial(self.lost.notify, batch.log.root_id, batch.log.epoch), batch.error))
            batch.report()
            if batch.finishing and self._logs.get(batch.log.root_id) is batch.log:
                self._forget(batch.log.root_id)
        if not self._queued:  # also if an interrupt kept an event from being queued that was counted
            self._backlog = self._backlog_events = 0
            self._queued_since = None
        return calls + [call for batch in batches if batch.log.waiting for call in batch.log.take_due(ticket)]

    def _settle(self, size: int, events: int) -> None:
        self._backlog -= size
        self._backlog_events -= events

    def _failed(self, batches: list[Batch], failure: RecordingError, tried: int) -> list[Call]:
        if batches:  # a failed renewal alone is tried again
            self._failure, self._failed_try = failure, tried
        self._queued_since, self._writing_since = self._writing_since or self._queued_since, None
        for batch in batches:
            batch.put_back()
        self._queued = dict.fromkeys(batch.log for batch in batches) | self._queued
        return [(notify, failure) for batch in batches for notify, _ in batch.log.take_due(batch.log.ticket)]
