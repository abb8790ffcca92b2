"""Stores that keep a journal: each write is an entry, and opening the journal replays all entries in memory."""

from __future__ import annotations

import abc
import contextlib
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from attrs import evolve

from crewbus._util import reentrant_lock
from crewbus.exceptions import CorruptRecordError, CrewbusError, InputError, RecordingError, RunHeldError, text_of
from crewbus.stores.claims import Claim, Claimed, may_be_claimed, tags_of
from crewbus.stores.contract import Store
from crewbus.stores.journal.entry import Entry
from crewbus.stores.journal.writer import Writers
from crewbus.stores.listing import LogFilter, LogSummary
from crewbus.stores.memory import MemoryStore
from crewbus.stores.rows import LogInfo, LogPart, Posted, StoredEvent

__all__ = ["JournalStore"]

T = TypeVar("T")
LEASE: Final = 15.0
TAKING: Final = ("begin", "acquire")
"""The writes that give their writer a lease."""
Takers = dict[tuple[str, int | None], str]
"""The writers that the epochs of logs were given to."""
_SUM: Final = b', "sum": '
"""Separates the content of an entry from the checksum of the journal up to there."""


class JournalStore(Store):
    """A store on anything that can be appended to: a file, a table, a broker's stream.

    A subclass implements `turn`, `entries` and `add`, and `sync` if adding does not make an entry durable. This class
    does the rest, for any number of processes with the same journal: logs, leases, fencing, forks, and checksums. It
    keeps the whole journal in memory, and the journal only grows. Exceptions of the subclass reach the caller as
    `crewbus.RecordingError`; messages name the journal by its `repr`.

    A run is held as long as its holder's process lives and is not stopped for longer than ``lease`` seconds: see
    `crewbus.stores.liveness`. ``lock_prefix`` is the path that the names of the holders' files begin with, the same for
    all processes that share the journal; by default it is in the temporary directory. Beside the journal, processes in
    other containers see the files too. Where files can't be locked, as on Windows, and for processes on other hosts,
    the lease of a dead process ends with `Store.revoke`.
    """

    def __init__(self, lock_prefix: Path | None = None, lease: float = LEASE) -> None:
        if not 0 < lease < float("inf"):
            raise InputError(f"lease={lease}: a lease is a number of seconds above 0")
        self._lease: Final = lease
        self._lock_prefix: Final = lock_prefix or Path(tempfile.gettempdir()) / "crewbus-holder-"
        self._closed = False
        self.after_fork()

    # For the subclass

    @abc.abstractmethod
    def turn(self) -> contextlib.AbstractContextManager[object]:
        """A block with exclusive access to the journal, across processes. The other methods run inside one."""

    @abc.abstractmethod
    def entries(self, after: int) -> Iterable[tuple[int, bytes]]:
        """The entries after a position, in order, each with its own position. Position 0 is before the first entry.

        If the last entry is incomplete because its writer died, this removes it from the journal.
        """

    @abc.abstractmethod
    def add(self, entry: bytes) -> int:
        """Append an entry, which is a line without its newline, and return its position. Raises if it can't."""

    def sync(self) -> None:
        """Return when all added entries are durable."""

    # Writing

    def begin(self, root_id: str) -> int:
        return int(self._write("begin", root_id=root_id))

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        self._write("append", root_id=root_id, epoch=epoch, event=event)

    def finish(self, root_id: str, epoch: int) -> None:
        self._write("finish", root_id=root_id, epoch=epoch)

    def acquire(self, root_id: str) -> int:
        with self._in_turn():
            info = self._info(root_id)
            if info.alive:
                raise RunHeldError(f"run {root_id} is alive, held by {info.holder}: let it end, or revoke its lease")
            return self._take(root_id).epoch

    def release(self, root_id: str, epoch: int, until: float | None = None) -> None:
        with self._in_turn():
            if self._takers.get((root_id, epoch)) == self._writers.me:
                self._note("release", root_id=root_id, epoch=epoch, until=until)

    def revoke(self, root_id: str) -> None:
        self._write("revoke", root_id=root_id)

    def has_lease(self, root_id: str, epoch: int) -> bool:
        return self._memory.has_lease(root_id, epoch) and self._writers.lasts

    def confirm(self, root_id: str, epoch: int) -> None:
        self._writers.hold()
        self._query(lambda memory: memory.confirm(root_id, epoch))

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        self._write("fork", root_id=root_id, at=at, fork_id=fork_id, events=list(events))

    def create(self, root_id: str, events: Sequence[StoredEvent], until: float | None = None) -> None:
        with self._in_turn():
            self._note("create", root_id=root_id, events=list(events), until=until)
            self.sync()

    def claim(self, claim: Claim) -> list[Claimed]:
        with self._in_turn():
            self._revoke_dead()
            taken = [self._take(root_id) for root_id in islice(self._claimable_of_stopped(claim), claim.limit)]
            rest = evolve(claim, limit=claim.limit - len(taken))
            return taken + [self._take(root_id) for root_id in self._memory.claimable(rest)]

    def _take(self, root_id: str) -> Claimed:
        self._take_from_stopped(root_id)
        return Claimed(root_id, int(self._note("acquire", root_id=root_id)))

    def post(self, root_id: str, channel: str, data: bytes, key: str | None = None) -> int:
        with self._in_turn():
            message = {"channel": channel, "data": bytes(data), "key": key, "at": time.time()}
            number = int(self._note("post_at", root_id=root_id, **message))
            self.sync()
            return number

    def drop(self, root_id: str) -> None:
        with self._in_turn():
            self._info(root_id)
            self._take_from_stopped(root_id)
            self._note("drop", root_id=root_id)

    # Reading

    def info(self, root_id: str) -> LogInfo:
        return self._query(lambda _: self._info(root_id))

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        return self._query(lambda memory: memory.read(root_id, after))

    def landmarks(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        return self._query(lambda memory: memory.landmarks(root_id, after))

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        return self._query(lambda memory: memory.marks(root_id))

    def root_of(self, run_id: str) -> str | None:
        return self._query(lambda memory: memory.root_of(run_id))

    def roots(self) -> list[str]:
        return self._query(MemoryStore.roots)

    def forks(self, root_id: str) -> list[str]:
        return self._query(lambda memory: memory.forks(root_id))

    def parts(self, root_id: str) -> list[LogPart]:
        return self._query(lambda memory: memory.parts(root_id))

    def event(self, root_id: str, seq: int) -> StoredEvent:
        return self._query(lambda memory: memory.event(root_id, seq))

    def posted(self, root_id: str, after: int = -1) -> list[Posted]:
        return self._query(lambda memory: memory.posted(root_id, after))

    def mail(self, after: Mapping[str, int]) -> dict[str, list[Posted]]:
        return self._query(lambda memory: memory.mail(after))

    def changes(self) -> int:
        return self._query(lambda _: self._position)

    def summary(self, root_id: str) -> LogSummary:
        with self._in_turn():
            info = self._info(root_id)
            return self._memory.summary(root_id)._replace(info=info)

    def find(self, query: LogFilter) -> Iterator[LogSummary]:
        with self._in_turn():
            self._revoke_dead()
            stopped = frozenset(self._stopped())
            wider = query if not stopped or query.states is None else evolve(query, states=None, limit=None)
            seen = (_seen(summary, self._takers, stopped) for summary in self._memory.find(wider))
            return islice(filter(query.matches, seen), query.limit)

    # Flushing and closing

    def flush(self, timeout: float | None = None) -> None:
        if self._wrote:
            with self._in_turn():
                self.sync()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            if self._wrote:
                self._release_all()
            self._writers.release()
            self._closed = True

    def after_fork(self) -> None:
        self._lock = reentrant_lock()
        self._inside = False
        """Whether the thread that has the lock is inside a turn, which must not be nested."""
        self._writers, self._wrote = Writers(self._lock_prefix, self._lease), False
        self._reset()

    def _release_all(self) -> None:
        with self._in_turn():
            for info in self._held_by(self._writers.me):
                self._note("release", root_id=info.root_id, epoch=info.epoch, until=None)
            self.sync()

    def _held_by(self, writer: str) -> list[LogInfo]:
        return [info for info in self._memory.held() if self._takers[info.root_id, info.epoch] == writer]

    # The journal's state in memory

    def _reset(self) -> None:
        self._memory = MemoryStore(max_bytes=sys.maxsize)
        self._takers: Takers = {}
        self._position = self._sum = 0

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """A turn, with the memory up to date."""
        with self._lock:
            if self._closed:
                raise RecordingError(f"{self!r} is closed")
            if self._inside:
                raise RecordingError(f"{self!r} is in use: a finaliser or signal handler can't use it at the same time")
            try:
                self._inside = True
                with self.turn():
                    self._writers.saw_journal()
                    self._catch_up()
                    yield
            except CrewbusError:
                raise
            except BaseException as error:
                self._reset()  # the memory may be incomplete
                if isinstance(error, Exception):
                    raise RecordingError(f"{self!r}: {type(error).__name__}: {text_of(error)}") from error
                raise
            finally:
                self._inside = False

    def _catch_up(self) -> None:
        for position, entry in self.entries(self._position):
            try:
                self._sum = self._replay(entry)
            except (CrewbusError, ValueError) as error:
                raise CorruptRecordError(f"{self!r}, after position {self._position}: {error}") from error
            self._position = position

    def _replay(self, entry: bytes) -> int:
        said, _, found = entry.rpartition(_SUM)
        total = zlib.crc32(said, self._sum)
        if found != b"%d}" % total:
            raise ValueError("the checksum does not match: this entry or an earlier one has changed")
        self._apply(Entry.load(said + b"}"))
        return total

    def _write(self, write: str, **arguments: Any) -> Any:
        with self._in_turn():
            return self._note(write, **arguments)

    def _note(self, write: str, **arguments: Any) -> Any:
        """Apply a write in memory, which rejects what is invalid, and then add it to the journal."""
        if not self._wrote:
            self._wrote = True
            for writer in self._writers.dead({*self._takers.values()}):
                self._revoke_all(writer)
        if write in TAKING:
            self._writers.hold()
        entry = Entry(self._writers.me, write, arguments)
        said = entry.dump()[:-1]
        outcome = self._apply(entry)
        total = zlib.crc32(said, self._sum)
        try:
            self._position, self._sum = self.add(b"%b%b%d}" % (said, _SUM, total)), total
        except BaseException:
            self._reset()  # the memory is ahead of the journal
            raise
        return outcome

    def _apply(self, entry: Entry) -> Any:
        root_id, epoch = entry.arguments["root_id"], entry.arguments.get("epoch")
        taker = self._takers.get((root_id, epoch), entry.by)
        if taker != entry.by:
            raise RecordingError(f"run {root_id}: epoch {epoch} was given to {taker}, not to {entry.by}")
        outcome = getattr(self._memory, entry.write)(**entry.arguments)
        if entry.write in TAKING:
            self._takers[root_id, outcome] = entry.by
        return outcome

    def _query(self, ask: Callable[[MemoryStore], T]) -> T:
        with self._in_turn():
            return ask(self._memory)

    def _info(self, root_id: str) -> LogInfo:
        """The state of a log, after revoking the leases of a dead holder."""
        info = self._memory.info(root_id)
        if not info.alive:
            return info
        holder = self._takers[root_id, info.epoch]
        if not self._writers.is_dead(holder):
            return info._replace(holder=holder, alive=not self._writers.is_stopped(holder))
        self._revoke_all(holder)
        return self._memory.info(root_id)

    def _revoke_dead(self) -> None:
        """Revoke the leases of all dead holders."""
        for writer in filter(self._writers.is_dead, self._holders()):
            self._revoke_all(writer)

    def _holders(self) -> set[str]:
        return {self._takers[held.root_id, held.epoch] for held in self._memory.held()}

    def _stopped(self) -> list[str]:
        """The holders whose leases have ended although they are there. They may come back, and then lose nothing.

        So their leases are revoked one by one, by whoever takes the log.
        """
        return [*filter(self._writers.is_stopped, self._holders())]

    def _take_from_stopped(self, root_id: str) -> None:
        if self._memory.info(root_id).alive and not self._info(root_id).alive:
            self._note("revoke", root_id=root_id)

    def _claimable_of_stopped(self, claim: Claim) -> Iterator[str]:
        """The logs of stopped holders that a claim would take; they count as alive, so that no cap is in the way."""
        stopped, now = frozenset(self._stopped()), time.time()
        for held in self._memory.held() if stopped else ():
            if held.last >= 0 and self._takers[held.root_id, held.epoch] in stopped:
                summary = _seen(self._memory.summary(held.root_id), self._takers, stopped)
                if may_be_claimed(summary, now) and claim.accepts(tags_of(summary)):
                    yield held.root_id

    def _revoke_all(self, writer: str) -> None:
        """Revoke the leases of a dead writer."""
        for info in self._held_by(writer):
            self._note("revoke", root_id=info.root_id)
        self._writers.forget(writer)


def _seen(summary: LogSummary, takers: Takers, stopped: frozenset[str]) -> LogSummary:
    """A summary of the memory's with the name of its holder, and whether that is alive."""
    info = summary.info
    if not info.alive:
        return summary
    holder = takers.get((info.root_id, info.epoch), info.holder)
    return summary._replace(info=info._replace(holder=holder, alive=holder not in stopped))
