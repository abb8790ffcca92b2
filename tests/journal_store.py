"""A store that survives its process, as plain as can be: each write is noted in a file, and made again to read it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import crewbus
from crewbus.abc import LogInfo, StoredEvent
from crewbus.exceptions import RecordingError, RunHeldError


def noted(name: str) -> Callable[..., Any]:
    """A write of the memory store, that is noted too."""

    def method(self: JournalStore, *arguments: Any) -> Any:
        with self.turn():
            self.check(name, *arguments)
            outcome = self.make(name, *arguments)
            self.note(pickle.dumps((name, arguments, os.getpid())))
            if name in ("begin", "acquire"):
                self.mine[arguments[0]] = outcome
            return outcome

    return method


class JournalStore(crewbus.MemoryStore):
    """Shares its data with each who opens the same file."""

    begin, append, finish = noted("begin"), noted("append"), noted("finish")
    acquire, release, revoke = noted("acquire"), noted("release"), noted("revoke")
    fork, drop = noted("fork"), noted("drop")

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.load()

    def load(self) -> None:
        super().__init__()
        self._closed = False
        self.mine: dict[str, int] = {}
        self.pids: dict[str, int] = {}
        self.offset = 0
        self.file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise crewbus.RecordingError("the journal is closed")
            fcntl.flock(self.file, fcntl.LOCK_EX)
            try:
                self.catch_up()
                yield
            finally:
                fcntl.flock(self.file, fcntl.LOCK_UN)

    def catch_up(self) -> None:
        data = os.pread(self.file, os.fstat(self.file).st_size - self.offset, self.offset)
        self.offset += len(data)
        notes = io.BytesIO(data)
        while notes.tell() < len(data):
            name, arguments, pid = pickle.load(notes)
            if name in ("acquire", "drop"):
                super().revoke(arguments[0])
            self.make(name, *arguments, pid=pid)

    def make(self, name: str, *arguments: Any, pid: int | None = None) -> Any:
        outcome = getattr(crewbus.MemoryStore, name)(self, *arguments)
        if name in ("begin", "acquire"):
            self.pids[arguments[0]] = pid or os.getpid()
        return outcome

    def note(self, data: bytes) -> None:
        self.offset += os.write(self.file, data)

    def check(self, name: str, root_id: str, *arguments: Any) -> None:
        if name in ("append", "finish") and self.mine.get(root_id) != arguments[0]:
            self._writable(root_id, arguments[0])
            raise RecordingError(f"run {root_id} is not this store's to write")
        if name in ("acquire", "drop") and root_id in self._logs:
            if not self.is_held(root_id):
                super().revoke(root_id)
            elif name == "acquire":
                raise RunHeldError(f"run {root_id} is held by process {self.pids[root_id]}")

    def is_held(self, root_id: str) -> bool:
        try:
            os.kill(self.pids.get(root_id, 0), 0)
        except ProcessLookupError:
            return False
        return self._log(root_id).held

    def info(self, root_id: str) -> LogInfo:
        with self.turn():
            alive = super().info(root_id).alive and self.is_held(root_id)
            holder = f"process {self.pids[root_id]}" if alive else None
            return super().info(root_id)._replace(alive=alive, holder=holder)

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        with self.turn():
            return super().read(root_id, after)

    def landmarks(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        with self.turn():
            return super().landmarks(root_id, after)

    def root_of(self, run_id: str) -> str | None:
        with self.turn():
            return super().root_of(run_id)

    def roots(self) -> list[str]:
        with self.turn():
            return super().roots()

    def forks(self, root_id: str) -> list[str]:
        with self.turn():
            return super().forks(root_id)

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self.let_go()
                self._closed = True
                os.close(self.file)

    def let_go(self) -> None:
        for root_id, epoch in self.mine.items():
            if root_id in self._logs:
                self.release(root_id, epoch)

    def after_fork(self) -> None:
        self.load()
