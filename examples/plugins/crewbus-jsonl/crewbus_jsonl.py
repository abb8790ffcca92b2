"""The plugin ``jsonl``: a store on one file of JSON lines, which any number of processes of one machine may share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crewbus import Store, hookimpl
from crewbus.stores.journal import JournalStore


class JsonlStore(JournalStore):
    """Keeps each write as a line of the file ``path``: what was written, and by whom."""

    def __init__(self, path: Path | str, lease: float = 15.0) -> None:
        self._path = Path(path).absolute()
        super().__init__(lock_prefix=self._path.with_name(f"{self._path.name}-holder-"), lease=lease)

    def __repr__(self) -> str:
        return f"<JsonlStore {self._path}>"

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._path.open("a+b") as self._file:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)  # closing is not enough: a forked child may have it open

    def entries(self, after: int) -> Iterator[tuple[int, bytes]]:
        if self._file.seek(0, os.SEEK_END) < after:
            raise OSError("the file is shorter than it was")
        self._file.seek(after)
        for line in self._file:
            if not line.endswith(b"\n"):  # its writer was killed
                self._file.truncate(after)
                return
            after += len(line)
            yield after, line[:-1]

    def add(self, entry: bytes) -> int:
        if os.write(self._file.fileno(), entry + b"\n") <= len(entry):  # unbuffered: no retry at close
            raise OSError("the line was not written completely")
        return self._file.seek(0, os.SEEK_END)

    def sync(self) -> None:
        os.fsync(self._file.fileno())


@hookimpl
def crewbus_open_store(url: str) -> Store | None:
    """Open ``jsonl:///PATH``; an absolute path begins with a slash of its own."""
    scheme, _, path = url.partition(":///")
    return JsonlStore(path) if scheme == "jsonl" else None
