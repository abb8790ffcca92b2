"""A bounded store in this process's memory."""

from __future__ import annotations

import bisect
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Final

from crewbus._util import reentrant_lock
from crewbus.events import ENDS, LANDMARKS, MARKS
from crewbus.exceptions import (
    FencedError,
    InputError,
    RecordingError,
    RunEndedError,
    RunHeldError,
    RunIdInUseError,
    RunNotFoundError,
    StoreFullError,
)
from crewbus.stores.claims import PROGRESS, Claim, Claimed, check_due, check_first_events
from crewbus.stores.contract import Store
from crewbus.stores.listing import LogFilter, LogSummary
from crewbus.stores.memory_claims import ClaimIndex
from crewbus.stores.memory_log import HOLDER, MemoryLog
from crewbus.stores.rows import LogInfo, LogPart, Posted, StoredEvent
from crewbus.stores.shelves import ALL, Shelf, Shelves
from crewbus.stores.watching import Watchers

DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024
OVERHEAD: Final = 300
"""Bytes that a stored event takes besides its JSON: measured with CPython 3.11 to 3.13, rounded up."""
HELD: Final[Shelf] = ("held",)
"""The logs that have a holder."""


class MemoryStore(Store):
    """Keeps records in memory, up to ``max_bytes`` bytes (256 MiB by default; `InputError` below 1).

    At the bound it drops whole records: finished ones that no fork needs, oldest first. When there are none left,
    `Store.append` raises `StoreFullError`. Nothing survives the process, so a lease never ends by itself: a log is held
    until its holder releases it. `Store.close` releases all logs; the store can then be given to another bus.
    """

    is_shared = False

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 1:
            raise InputError(f"max_bytes={max_bytes}: a memory store needs at least 1 byte")
        self.max_bytes = max_bytes
        self._size = self._live = 0
        """The bytes of all logs, and of those that are needed, and so can't be dropped."""
        self._logs: dict[str, MemoryLog] = {}
        self._roots: dict[str, str] = {}
        self._numbers = count()
        self._by_number: dict[int, MemoryLog] = {}
        self._shelves = Shelves()
        self._claims = ClaimIndex()
        self._watchers = Watchers()
        self._lock = reentrant_lock()

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self._logs)} runs>"

    # Writing

    def begin(self, root_id: str) -> int:
        with self._lock:
            log = self._new(MemoryLog(root_id, next(self._numbers)))
            epoch = self._take(log)
        self._watchers.notify()
        return epoch

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        with self._lock:
            log = self._logs.get(root_id)
            if log is None or not log.open or epoch != log.epoch:
                raise self._unwritable(root_id, epoch)
            if event.seq == log.last + 1:
                self._add(log, event)
            elif event.seq > log.last:
                raise RecordingError(f"run {root_id}: event {event.seq} would leave a gap after {log.last}")
        self._watchers.notify()

    def _add(self, log: MemoryLog, event: StoredEvent) -> None:
        size = len(event.data) + OVERHEAD
        if self._size + size > self.max_bytes:
            self._make_room(size)
        if len(log.events) != event.seq - log.start:
            for kept in (log.landmarks, log.marks):  # an interrupted earlier attempt left them
                while kept and kept[-1].seq >= event.seq:
                    kept.pop()
            del log.events[event.seq - log.start :]
        log.events.append(event)
        if event.name in LANDMARKS:
            log.landmarks.append(event)
            if event.name in PROGRESS:
                log.stalls = 0
            if event.name in MARKS:
                log.marks.append(event)
                if event.name in ENDS:
                    log.end = event if event.run_id == log.root_id else log.end
                elif event.name == "crewbus.RunResumed":
                    log.end = None
        if event.run_id not in log.runs:
            self._roots.setdefault(event.run_id, log.root_id)
            log.runs.add(event.run_id)
        log.last = event.seq  # after the event, since readers take no lock
        if not log.state or event.name in MARKS:
            self._restate(log)
        if event.seq == log.start:
            self._note_begun(log)
        log.size += size
        self._size += size
        self._live += size

    def finish(self, root_id: str, epoch: int) -> None:
        with self._lock:
            log = self._log(root_id)
            if log.sealed and epoch == log.epoch:
                return
            self._writable(root_id, epoch)
            log.sealed, log.stalls = True, 0
            self._end_lease(log)
            self._drop_reference(log)
        self._watchers.notify()

    def _writable(self, root_id: str, epoch: int) -> MemoryLog:
        log = self._logs.get(root_id)
        if log is None or not log.open or epoch != log.epoch:
            raise self._unwritable(root_id, epoch)
        return log

    def _unwritable(self, root_id: str, epoch: int) -> RecordingError:
        log = self._logs.get(root_id)
        if log is not None and epoch < log.epoch:
            return FencedError(
                f"run {root_id} was taken over with epoch {log.epoch}: writes with epoch {epoch} are rejected"
            )
        return RecordingError(f"run {root_id} has no open record with epoch {epoch} in this store")

    # Leases

    def info(self, root_id: str) -> LogInfo:
        with self._lock:
            return self._log(root_id).info()

    def acquire(self, root_id: str) -> int:
        with self._lock:
            log = self._log(root_id)
            if log.held:
                raise RunHeldError(f"run {root_id} is alive, held by {HOLDER}: let it end, or revoke its lease")
            epoch = self._take_over(log)
        self._watchers.notify()
        return epoch

    def _take_over(self, log: MemoryLog) -> int:
        if log.sealed:
            log.sealed = False
            self._add_reference(log)
        log.stalls += 1
        return self._take(log)

    def _take(self, log: MemoryLog) -> int:
        log.epoch += 1
        log.due, log.mail_taken = None, len(log.mail)
        log.open = log.held = True
        self._shelves.put(log.number, HELD)
        self._restate(log)
        return log.epoch

    def _end_lease(self, log: MemoryLog, open_: bool = False) -> None:
        log.open, log.held = open_, False
        self._shelves.take(log.number, HELD)
        self._restate(log)

    def release(self, root_id: str, epoch: int, until: float | None = None) -> None:
        check_due(root_id, until)
        with self._lock:
            log = self._log(root_id)
            if log.open and epoch == log.epoch:
                log.due = until if len(log.mail) == log.mail_taken else None
                self._end_lease(log)
        self._watchers.notify()

    def revoke(self, root_id: str) -> None:
        with self._lock:
            log = self._log(root_id)
            self._end_lease(log, open_=log.open)
        self._watchers.notify()

    def has_lease(self, root_id: str, epoch: int) -> bool:
        log = self._logs.get(root_id)
        return log is None or (log.open and log.epoch == epoch)

    def confirm(self, root_id: str, epoch: int) -> None:
        with self._lock:
            if root_id in self._logs:
                self._writable(root_id, epoch)

    # Forks

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        with self._lock:
            parent = self._log(root_id)
            if not 0 <= at <= parent.last:
                raise RecordingError(f"run {root_id} can't be forked at event {at}: its last one is {parent.last}")
            if [event.seq for event in events] != list(range(at + 1, at + 1 + len(events))):
                raise RecordingError(f"run {fork_id}: its first events do not continue from event {at}")
            base = parent.owner(at)
            log = self._new(MemoryLog(fork_id, next(self._numbers), parent, base, at + 1))
            self._restate(log)
            self._note_begun(log)
            parent.forks.append(fork_id)
            self._add_reference(parent)
            self._add_first(log, events)
        self._watchers.notify()

    def _add_first(self, log: MemoryLog, events: Sequence[StoredEvent]) -> None:
        """Add the first events of a new log, which is forgotten if that fails."""
        try:
            for event in events:
                self._add(log, event)
        except BaseException:
            self._forget(log)
            raise

    def forks(self, root_id: str) -> list[str]:
        with self._lock:
            return list(self._log(root_id).forks)

    # Work that anyone may take, and messages to it

    def create(self, root_id: str, events: Sequence[StoredEvent], until: float | None = None) -> None:
        check_due(root_id, until)
        check_first_events(root_id, events)
        with self._lock:
            log = self._new(MemoryLog(root_id, next(self._numbers)))
            log.due = until
            self._add_first(log, events)
        self._watchers.notify()

    def claim(self, claim: Claim) -> list[Claimed]:
        with self._lock:
            claimed = [Claimed(log.root_id, self._take_over(log)) for log in self._find_for(claim)]
        if claimed:
            self._watchers.notify()
        return claimed

    def claimable(self, claim: Claim) -> list[str]:
        """The logs that a claim would take."""
        with self._lock:
            return [log.root_id for log in self._find_for(claim)]

    def _find_for(self, claim: Claim) -> list[MemoryLog]:
        return self._claims.find(claim, time.time(), self._by_number)

    def post(self, root_id: str, channel: str, data: bytes, key: str | None = None) -> int:
        return self.post_at(root_id, channel, data, key, time.time())

    def post_at(self, root_id: str, channel: str, data: bytes, key: str | None, at: float) -> int:
        """Like `post`, with the time at which the message arrived."""
        with self._lock:
            log = self._log(root_id)
            if key is not None and (number := log.keys.get((channel, key))) is not None:
                return number
            if log.sealed:
                raise RunEndedError(f"run {root_id} has ended: it takes no messages any more")
            self._grow(log, len(data) + OVERHEAD)
            number = log.put(channel, bytes(data), key, at)
            self._claims.update(log)
        self._watchers.notify()
        return number

    def posted(self, root_id: str, after: int = -1) -> list[Posted]:
        with self._lock:
            return self._log(root_id).mail[max(after + 1, 0) :]

    def watch(self, notify: Callable[[], object]) -> Callable[[], None]:
        return self._watchers.add(notify)

    # Listing

    def held(self) -> list[LogInfo]:
        """The state of the logs that have a holder."""
        with self._lock:
            return [self._by_number[number].info() for number in self._shelves.on(HELD)]

    def summary(self, root_id: str) -> LogSummary:
        with self._lock:
            log = self._log(root_id)
            if log.last < 0:
                raise RunNotFoundError(f"run {root_id} has no events")
            return log.summary()

    def find(self, query: LogFilter) -> Iterator[LogSummary]:
        numbers, limit = self._shelves.newest_first(query), sys.maxsize if query.limit is None else query.limit
        while limit > 0:
            with self._lock:
                number = next(numbers, None)
                log = None if number is None else self._by_number.get(number)
                summary = None if log is None else log.summary()
            if number is None or (log is not None and query.since is not None and log.latest < query.since):
                return
            if summary is not None and query.matches(summary):
                yield summary
                limit -= 1

    def _restate(self, log: MemoryLog) -> None:
        """Put a log on the shelf of its state, and on the others when it gets its first event."""
        if log.last < 0:
            return
        state = log.summary().state
        if not log.state:
            self._shelves.put(log.number, ("state", state), *log.shelves())
        elif log.state != state:
            self._shelves.take(log.number, ("state", log.state))
            self._shelves.put(log.number, ("state", state))
        log.state = state
        self._claims.update(log)

    def _note_begun(self, log: MemoryLog) -> None:
        """Have this log and the newer ones say that it began then."""
        begun, older = log.begun(), self._shelves.older(ALL, log.number)
        log.latest = max(log.latest, -math.inf if older is None else self._by_number[older].latest, begun)
        newer = self._shelves.newer(ALL, log.number)
        while newer is not None and self._by_number[newer].latest < log.latest:
            self._by_number[newer].latest = log.latest
            newer = self._shelves.newer(ALL, newer)

    # Reading

    def parts(self, root_id: str) -> list[LogPart]:
        with self._lock:
            log = self._log(root_id)
            last, parts = log.last, log.lineage()
        return [LogPart(log.root_id, log.start, min(last, stop - 1)) for log, stop in parts]

    def event(self, root_id: str, seq: int) -> StoredEvent:
        with self._lock:
            log = self._log(root_id)
            if not 0 <= seq <= log.last:
                raise RunNotFoundError(f"run {root_id} has no event {seq}")
            return log.event(seq)

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        with self._lock:
            parts = self._log(root_id).lineage()
        for log, stop in parts:
            events, start = log.events, log.start
            seq = max(after + 1, start)
            while seq <= log.last and seq < stop:
                yield events[seq - start]
                seq += 1

    def landmarks(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        with self._lock:
            parts = self._log(root_id).lineage()
        for log, stop in parts:
            at = bisect.bisect_right(log.landmarks, after, key=lambda event: event.seq)
            while at < len(log.landmarks) and log.landmarks[at].seq < stop:
                yield log.landmarks[at]
                at += 1

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        with self._lock:
            log, stop = self._log(root_id), sys.maxsize
        while True:
            at = bisect.bisect_left(log.marks, stop, key=lambda event: event.seq)
            yield from log.marks[:at][::-1]
            if log.marked is None:
                return
            log, stop = log.marked

    def root_of(self, run_id: str) -> str | None:
        with self._lock:
            return self._roots.get(run_id)

    def roots(self) -> list[str]:
        with self._lock:
            return list(self._logs)

    # Dropping and closing

    def drop(self, root_id: str) -> None:
        with self._lock:
            log = self._log(root_id)
            if log.held:
                raise RecordingError(f"run {root_id} is live: its record can't be dropped")
            if log.forks:
                raise RecordingError(f"run {root_id} is needed by its forks: drop {', '.join(log.forks[:3])} first")
            self._forget(log)
        self._watchers.notify()

    def close(self) -> None:
        with self._lock:
            self._release_all()
        self._watchers.notify()

    def after_fork(self) -> None:
        self._lock = reentrant_lock()
        self._watchers = Watchers()
        self._release_all()

    def _release_all(self) -> None:
        for log in self._logs.values():
            self._end_lease(log)

    def _new(self, log: MemoryLog) -> MemoryLog:
        if log.root_id in self._roots:
            raise RunIdInUseError(f"run {log.root_id} is recorded already: choose another id")
        log.runs.add(log.root_id)
        self._logs[log.root_id] = self._by_number[log.number] = log
        self._roots[log.root_id] = log.root_id
        return log

    def _log(self, root_id: str) -> MemoryLog:
        try:
            return self._logs[root_id]
        except KeyError:
            raise RunNotFoundError(f"run {root_id} is not recorded in this store") from None

    # The bound

    def _add_reference(self, log: MemoryLog | None) -> None:
        """Add a reference to a log, and, if it had none, to the logs that it was forked from."""
        while log is not None:
            log.references += 1
            if log.references > 1:
                return
            self._live += log.size
            log = log.parent

    def _drop_reference(self, log: MemoryLog | None) -> None:
        while log is not None:
            log.references -= 1
            if log.references:
                return
            self._live -= log.size
            log = log.parent

    def _make_room(self, size: int) -> None:
        if self._live + size > self.max_bytes:
            raise StoreFullError(
                f"the memory store holds {self._live} bytes of live runs, and {size} more would exceed its bound of "
                f"{self.max_bytes}: raise max_bytes, or record to a store on disk"
            )
        while self._size + size > self.max_bytes:
            self._forget(next(log for log in self._logs.values() if not log.references and not log.forks))

    def _grow(self, log: MemoryLog, size: int) -> None:
        if self._size + size > self.max_bytes:
            self._make_room(size)
        log.size += size
        self._size += size
        self._live += size

    def _forget(self, log: MemoryLog) -> None:
        if log.references:
            self._drop_reference(log)
        if log.parent is not None:
            log.parent.forks.remove(log.root_id)
        del self._logs[log.root_id], self._by_number[log.number]
        self._claims.remove(log)
        if log.state:
            self._shelves.take(log.number, ("state", log.state), *log.shelves())
        self._size -= log.size
        for run_id in log.runs:
            if self._roots.get(run_id) == log.root_id:
                del self._roots[run_id]
