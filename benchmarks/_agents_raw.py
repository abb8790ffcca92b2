"""Agents without a bus: what carries their chunks is written by hand."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from benchmarks._agents import Crowd, Found, Meter
from benchmarks._harness import stamped_chunk
from crewbus import Envelope

PERIOD: Final = 0.02
"""Seconds between two commits."""

Note = Callable[[Envelope], object]
"""Gets each envelope ahead of its consumer."""


async def _queued(crowd: Crowd, note: Note | None = None) -> Found:
    meter = Meter(crowd)

    async def one(number: int) -> None:
        frames: asyncio.Queue[Envelope | None] = asyncio.Queue()
        run_id, seq = f"0199f3f2a1b2c3d4e5f6{number:08}", 0

        def send(text: str) -> None:
            nonlocal seq
            envelope = stamped_chunk(seq, run_id, text)
            seq += 1
            if note is not None:
                note(envelope)
            frames.put_nowait(envelope)

        async def produce() -> None:
            await meter.agent(send)
            frames.put_nowait(None)

        producer = asyncio.ensure_future(produce())
        while (envelope := await frames.get()) is not None:
            meter.came(envelope.event.text)
        await producer

    await asyncio.gather(*(one(number) for number in range(crowd.agents)))
    return meter.found


def raw(crowd: Crowd) -> Found:
    """A task and an `asyncio.Queue` for each agent."""
    return asyncio.run(_queued(crowd))


class Table:
    """What all agents emit, as rows of one table, which a thread commits with an fsync every 20 ms."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[Envelope] = deque()
        self._over = threading.Event()
        self.note: Final = self._waiting.append

    @contextmanager
    def writing(self) -> Iterator[None]:
        thread = threading.Thread(target=self._write)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _write(self) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE chunks (run_id TEXT, seq INTEGER, at REAL, text TEXT)")
            over = False
            while not over:
                over = self._over.wait(PERIOD)
                rows = [_row(self._waiting.popleft()) for _ in range(len(self._waiting))]
                connection.execute("BEGIN")
                connection.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", rows)
                connection.execute("COMMIT")


def _row(envelope: Envelope) -> tuple[str | None, int, float, str]:
    return envelope.run_id, envelope.seq, envelope.at, envelope.event.text


def by_hand(crowd: Crowd) -> Found:
    """As `raw`, with such a table beside it."""
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder, "chunks.db"))
        with table.writing():
            return asyncio.run(_queued(crowd, table.note))
