"""The plugin ``memory_store``: a bounded store in this process's memory, opened by ``memory:`` URLs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

import attrs

from crewbus import hookimpl
from crewbus.abc import Store, StoredEvent
from crewbus.exceptions import InputError, RecordingError, RunIdInUseError, RunNotFoundError, StoreFullError

DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024
OVERHEAD: Final = 300
"""What a stored event takes beside its JSON, in bytes: measured with CPython 3.11 to 3.13, rounded up."""


@attrs.define
class _Log:
    events: list[StoredEvent] = attrs.field(factory=list)
    runs: set[str] = attrs.field(factory=set)
    size: int = 0
    open: bool = True


class MemoryStore(Store):
    """Keeps records in memory, up to ``max_bytes``.

    When the bound is reached the oldest finished records are given up, whole; when none is left, what is
    to be appended is refused with `StoreFullError`. Nothing survives the process.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 1:
            raise InputError(f"a memory store's bound is a number of bytes, at least 1; got {max_bytes}")
        self.max_bytes = max_bytes
        self._size = 0
        self._logs: dict[str, _Log] = {}
        self._roots: dict[str, str] = {}
        self._lock = threading.RLock()

    def begin(self, root_id: str) -> int:
        with self._lock:
            if root_id in self._roots:
                raise RunIdInUseError(f"run {root_id} is recorded already: choose another id")
            self._logs[root_id] = _Log(runs={root_id})
            self._roots[root_id] = root_id
            return 1

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        with self._lock:
            log = self._logs.get(root_id)
            if log is None or not log.open or epoch != 1:
                raise RecordingError(f"run {root_id} has no open record with epoch {epoch} in this store")
            if event.seq != len(log.events):
                if event.seq < len(log.events):
                    return
                raise RecordingError(f"run {root_id}: event {event.seq} would leave a gap after {len(log.events) - 1}")
            size = len(event.data) + OVERHEAD
            if self._size + size > self.max_bytes:
                self._make_room(size)
            log.events.append(event)
            log.size += size
            self._size += size
            if event.run_id not in log.runs:
                log.runs.add(event.run_id)
                self._roots[event.run_id] = root_id

    def _make_room(self, size: int) -> None:
        if self._size + size <= self.max_bytes:
            return
        live = sum(log.size for log in self._logs.values() if log.open)
        if live + size > self.max_bytes:
            raise StoreFullError(
                f"the memory store holds {live} bytes of live runs, and {size} more are over its bound of "
                f"{self.max_bytes}: give it a larger max_bytes, or record to a store on disk"
            )
        for root in [root for root, log in self._logs.items() if not log.open]:
            if self._size + size <= self.max_bytes:
                return
            self._forget(root)

    def _forget(self, root_id: str) -> None:
        log = self._logs.pop(root_id)
        self._size -= log.size
        for run_id in log.runs:
            self._roots.pop(run_id, None)

    def finish(self, root_id: str, epoch: int) -> None:
        with self._lock:
            self._log(root_id).open = False

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        with self._lock:
            events = self._log(root_id).events
        at = after + 1
        while at < len(events):
            yield events[at]
            at += 1

    def root_of(self, run_id: str) -> str | None:
        with self._lock:
            return self._roots.get(run_id)

    def roots(self) -> list[str]:
        with self._lock:
            return list(self._logs)

    def drop(self, root_id: str) -> None:
        with self._lock:
            if self._log(root_id).open:
                raise RecordingError(f"run {root_id} is live: its record can't be dropped")
            self._forget(root_id)

    def after_fork(self) -> None:
        self._lock = threading.RLock()
        for log in self._logs.values():
            log.open = False

    def _log(self, root_id: str) -> _Log:
        try:
            return self._logs[root_id]
        except KeyError:
            raise RunNotFoundError(f"run {root_id} is not recorded in this store") from None


@hookimpl
def crewbus_open_store(url: str) -> Store | None:
    """Open ``memory:`` or ``memory:?max_bytes=N``."""
    scheme, _, rest = url.partition(":")
    if scheme != "memory":
        return None
    option, _, value = rest.strip("/").removeprefix("?").partition("=")
    if not option:
        return MemoryStore()
    if option != "max_bytes" or not value.isdecimal():
        raise InputError(f"{url!r}: a memory store is 'memory:' or 'memory:?max_bytes=N'")
    return MemoryStore(int(value))
