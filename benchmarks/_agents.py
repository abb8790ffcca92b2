"""A sustained load of agents, in one process: each streams chunks of a call at the pace of a model to a consumer.

Each kind of agent does the same: it waits, emits, and waits again; its consumer counts. What differs is what carries a
chunk from one to the other. Processor time is that of the whole process, without its start and end. Latency is measured
in a load of its own, in which a chunk's text is the time at which it was emitted.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from inspect import isawaitable
from pathlib import Path
from typing import Final

import attrs

from benchmarks._harness import interleaved, now, quantile
from crewbus import Bus, Chunk, Run, current_run
from crewbus_sqlite import SQLiteStore

ASKED: Final = 0.0005
"""Of which share of the chunks it is asked when they are on disk: asking hurries the store."""


@attrs.frozen
class Crowd:
    """So many agents at once."""

    agents: int
    pace: int
    """Chunks a second of each."""
    seconds: float
    timed: bool = False
    """Whether it is measured how long chunks take, instead of what they cost."""

    @property
    def chunks(self) -> int:
        """Chunks of each."""
        return max(1, int(self.pace * self.seconds))

    @property
    def total(self) -> int:
        """Chunks of all."""
        return self.agents * self.chunks


@attrs.frozen
class Found:
    cpu: float
    """Nanoseconds of processor time per chunk."""
    delivered: Sequence[float] = ()
    """Seconds from emission to consumer, sorted; empty unless the crowd is timed."""
    written: Sequence[float] = ()
    """Seconds from emission to disk, of some, sorted."""
    size: float = 0.0
    """Bytes of the store's files per chunk."""
    rows: float = 0.0
    """Rows of events per chunk."""


Carry = Callable[[Crowd], Found]
"""Carries the chunks of a crowd to their consumers."""
Send = Callable[[str], object]
"""Emits a chunk; what it returns is awaited, if it can be."""


class Meter:
    """Starts when every agent is ready, stops when all chunks have come; agents begin evenly spread."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._ready = self._count = 0
        self._begun, self._done = asyncio.Event(), asyncio.Event()
        self._cpu = 0.0
        self._delivered: list[float] = []

    def came(self, text: str) -> None:
        """A chunk has reached its consumer."""
        if self._crowd.timed:
            self._delivered.append(now() - float(text))
        self._count += 1
        if self._count == self._crowd.total:
            self._cpu = time.process_time() - self._cpu
            self._done.set()

    async def agent(self, send: Send) -> None:
        """Emit at the pace, at absolute times: an agent that is late catches up."""
        crowd, loop = self._crowd, asyncio.get_running_loop()
        number, self._ready = self._ready, self._ready + 1
        if self._ready == crowd.agents:
            self._cpu = time.process_time()
            self._begun.set()
        await self._begun.wait()
        due = loop.time() + number / crowd.agents / crowd.pace
        for _ in range(crowd.chunks):
            await asyncio.sleep(due - loop.time())
            sent = send(str(now()) if crowd.timed else "Hello")
            if isawaitable(sent):
                await sent
            due += 1 / crowd.pace
        await self._done.wait()

    @property
    def found(self) -> Found:
        return Found(self._cpu * 1e9 / self._crowd.total, sorted(self._delivered))


def least(carries: Mapping[str, Carry], crowd: Crowd, repeat: int) -> dict[str, float]:
    """The least processor time of each per chunk; they take turns."""
    return interleaved({name: partial(_cpu, carry, crowd) for name, carry in carries.items()}, repeat)


def latencies(carries: Mapping[str, Carry], crowd: Crowd, repeat: int) -> dict[str, float]:
    """As `least`: the seconds from emission to consumer that 99 of 100 chunks don't exceed."""
    timed = attrs.evolve(crowd, timed=True)
    return interleaved({name: partial(_p99, carry, timed) for name, carry in carries.items()}, repeat)


def _cpu(carry: Carry, crowd: Crowd) -> float:
    return carry(crowd).cpu


def _p99(carry: Carry, crowd: Crowd) -> float:
    return quantile(carry(crowd).delivered, 0.99)


# Ours


class Asking:
    """Of some chunks it is asked when they are on disk."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store
        self._random = random.Random(ASKED)
        self.written: list[float] = []

    def around(self, run: Run, send: Send) -> Send:
        """``send``, and the question."""

        def ask(text: str) -> None:
            send(text)
            if self._random.random() < ASKED:
                at = now()
                self._store.when_written(run.id, lambda _: self.written.append(now() - at))

        return ask


async def _streamed(crowd: Crowd, bus: Bus, asking: Asking | None = None) -> Found:
    meter = Meter(crowd)

    async def agent() -> None:
        with bus.call("gpt"):
            run = current_run(bus)
            assert run is not None
            await meter.agent(bus.chunk if asking is None else asking.around(run, bus.chunk))

    async def one() -> None:
        async with bus.stream(agent) as stream:
            async for envelope in stream:
                if type(envelope.event) is Chunk:
                    meter.came(envelope.event.text)

    await asyncio.gather(*(one() for _ in range(crowd.agents)))
    return meter.found


def streamed(crowd: Crowd) -> Found:
    """A run with a call and a stream for each agent, unrecorded."""
    with Bus(entry_points=False) as bus:
        return asyncio.run(_streamed(crowd, bus))


def recorded(crowd: Crowd) -> Found:
    """The same, recorded to a new SQLite file with an fsync for each commit."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "record.db")
        store = SQLiteStore(path)
        asking = Asking(store) if crowd.timed else None
        with Bus(entry_points=False) as bus:
            bus.enable_recording(store)
            found = asyncio.run(_streamed(crowd, bus, asking))
        with closing(sqlite3.connect(path)) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM events WHERE name = 'crewbus.Chunk'").fetchone()
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        written = sorted(asking.written) if asking is not None else ()
        return attrs.evolve(found, written=written, size=size / crowd.total, rows=rows / crowd.total)


def recorded_latencies(crowd: Crowd, repeat: int) -> tuple[float, float]:
    """The seconds from emission to consumer and to disk that 99 of 100 chunks don't exceed; the least of each."""
    timed = attrs.evolve(crowd, timed=True)
    found = [recorded(timed) for _ in range(repeat)]
    return min(quantile(one.delivered, 0.99) for one in found), min(quantile(one.written, 0.99) for one in found)
