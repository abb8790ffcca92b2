"""A sustained load of agents, in one process: each streams chunks of a call at the pace of a model to a consumer.

Each kind of agent does the same: it waits, emits, and waits again; its consumer counts. What differs is what carries a
chunk from one to the other. Processor time is that of the whole process, without its start and end.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from inspect import isawaitable
from pathlib import Path
from typing import Final

import attrs

from benchmarks._harness import interleaved, now, stamped_chunk
from crewbus import Bus, Chunk, Run, current_run
from crewbus_sqlite import SQLiteStore

ASKED: Final = 0.0005
"""Of which share of the chunks it is asked when they are on disk: asking hurries the store."""
THREADS: Final = 4
SLOT: Final = 0.001
"""Seconds for which a thread sleeps when nothing is due."""


@attrs.frozen
class Crowd:
    """So many agents at once."""

    agents: int
    pace: int
    """Chunks a second of each."""
    seconds: float

    @property
    def chunks(self) -> int:
        """Chunks of each."""
        return max(1, int(self.pace * self.seconds))


@attrs.frozen
class Found:
    cpu: float
    """Nanoseconds of processor time per chunk."""
    delivered: Sequence[float] = ()
    """Seconds from emission to consumer, sorted."""
    written: Sequence[float] = ()
    """Seconds from emission to disk, of some, sorted."""
    size: float = 0.0
    """Bytes of the store's files per chunk."""
    rows: float = 0.0
    """Rows of events per chunk."""


Send = Callable[[str], object]
"""Emits a chunk; what it returns is awaited, if it can be."""
Start = Callable[[Callable[[Send], Awaitable[None]]], Awaitable[None]]
"""Carries one agent from its beginning to its end; it gives the agent what it emits with."""


class Meter:
    """Starts when every agent is ready, stops when all chunks have come; agents begin evenly spread."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._ready = self._count = 0
        self._begun, self._done = asyncio.Event(), asyncio.Event()
        self.cpu = 0.0

    def came(self) -> None:
        """A chunk has reached its consumer."""
        self._count += 1
        if self._count == self._crowd.agents * self._crowd.chunks:
            self.cpu = time.process_time() - self.cpu
            self._done.set()

    async def agent(self, send: Send) -> None:
        """Emit at the pace, at absolute times: an agent that is late catches up."""
        crowd, loop = self._crowd, asyncio.get_running_loop()
        number, self._ready = self._ready, self._ready + 1
        if self._ready == crowd.agents:
            self.cpu = time.process_time()
            self._begun.set()
        await self._begun.wait()
        due = loop.time() + number / crowd.agents / crowd.pace
        for _ in range(crowd.chunks):
            await asyncio.sleep(due - loop.time())
            sent = send("Hello")
            if isawaitable(sent):
                await sent
            due += 1 / crowd.pace
        await self._done.wait()

    @property
    def per_chunk(self) -> float:
        """Nanoseconds of processor time."""
        return self.cpu * 1e9 / (self._crowd.agents * self._crowd.chunks)


class Latencies:
    """How long chunks took to their consumers, and some of them to the disk."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store
        self._random = random.Random(ASKED)
        self.delivered: list[float] = []
        self.written: list[float] = []

    def asking(self, run: Run, send: Send) -> Send:
        """``send``, and of some chunks it is asked when they are on disk."""

        def ask(text: str) -> None:
            send(text)
            if self._random.random() < ASKED:
                at = now()
                self._store.when_written(run.id, lambda _: self.written.append(now() - at))

        return ask


def raw(crowd: Crowd) -> float:
    """A task and an `asyncio.Queue` for each agent."""

    async def one(meter: Meter) -> None:
        frames: asyncio.Queue[object] = asyncio.Queue()

        async def produce() -> None:
            put = frames.put_nowait
            await meter.agent(lambda _: put(stamped_chunk(0)))
            put(None)

        producer = asyncio.ensure_future(produce())
        while await frames.get() is not None:
            meter.came()
        await producer

    async def together() -> float:
        meter = Meter(crowd)
        await asyncio.gather(*(one(meter) for _ in range(crowd.agents)))
        return meter.per_chunk

    return asyncio.run(together())


async def _streamed(crowd: Crowd, bus: Bus, latencies: Latencies | None) -> float:
    meter = Meter(crowd)

    async def agent() -> None:
        with bus.call("gpt"):
            run = current_run(bus)
            assert run is not None
            await meter.agent(bus.chunk if latencies is None else latencies.asking(run, bus.chunk))

    async def one() -> None:
        async with bus.stream(agent) as stream:
            async for envelope in stream:
                if type(envelope.event) is Chunk:
                    meter.came()
                    if latencies is not None:
                        latencies.delivered.append(now() - envelope.at)

    await asyncio.gather(*(one() for _ in range(crowd.agents)))
    return meter.per_chunk


def streamed(crowd: Crowd) -> float:
    """A run with a call and a stream for each agent, unrecorded."""
    with Bus(entry_points=False) as bus:
        return asyncio.run(_streamed(crowd, bus, None))


def recorded(crowd: Crowd) -> Found:
    """The same, recorded to a new SQLite file with an fsync for each commit."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "record.db")
        store = SQLiteStore(path)
        with Bus(entry_points=False) as bus:
            bus.enable_recording(store)
            latencies = Latencies(store)
            cpu = asyncio.run(_streamed(crowd, bus, latencies))
        total = crowd.agents * crowd.chunks
        with closing(sqlite3.connect(path)) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM events WHERE name = 'crewbus.Chunk'").fetchone()
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        return Found(cpu, sorted(latencies.delivered), sorted(latencies.written), size / total, rows / total)


def recorded_cpu(crowd: Crowd) -> float:
    """As `recorded`: the processor time."""
    return recorded(crowd).cpu


def least(candidates: Mapping[str, Callable[[Crowd], float]], crowd: Crowd, repeat: int) -> dict[str, float]:
    """The least of what each returned; they take turns."""
    return interleaved({name: partial(candidate, crowd) for name, candidate in candidates.items()}, repeat)


# From threads


def _feed(send: Callable[[int], object], mine: range, crowd: Crowd, begun: threading.Event) -> None:
    rate, sent, most = len(mine) * crowd.pace, 0, len(mine) * crowd.chunks
    begun.wait()
    start = time.perf_counter()
    while sent < most:
        due = min(int((time.perf_counter() - start) * rate), sent + len(mine), most)
        if due == sent:
            time.sleep(SLOT)
        for number in range(sent, due):
            send(mine[number % len(mine)])
        sent = due


async def _fed(crowd: Crowd, send: Callable[[int], object], count: Callable[[], int]) -> float:
    """The nanoseconds of processor time per chunk that four threads send at the pace."""
    begun = threading.Event()
    threads = [
        threading.Thread(target=_feed, args=(send, range(first, crowd.agents, THREADS), crowd, begun))
        for first in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    await asyncio.sleep(0.01)  # all consumers wait
    cpu = time.process_time()
    begun.set()
    while count() < crowd.agents * crowd.chunks:  # noqa: ASYNC110 - telling would be a cost of its own
        await asyncio.sleep(SLOT)
    cpu = time.process_time() - cpu
    for thread in threads:
        thread.join()
    return cpu * 1e9 / (crowd.agents * crowd.chunks)


def streamed_from_threads(crowd: Crowd) -> float:
    """Four threads emit in the calls of so many runs; each run has a consumer on one loop."""

    async def together() -> float:
        came = 0

        async def consume(run: Run) -> None:
            nonlocal came
            async with bus.subscribe(run.id, slow="block") as stream:
                async for envelope in stream:
                    came += type(envelope.event) is Chunk

        runs = [bus.run() for _ in range(crowd.agents)]
        calls = []
        for run in runs:
            run.start()
            with run.scope():
                calls.append(bus.call("gpt"))
                calls[-1].start()
        consumers = [asyncio.ensure_future(consume(run)) for run in runs]
        chunks = [call.chunk for call in calls]
        cpu = await _fed(crowd, lambda number: chunks[number]("Hello"), lambda: came)
        for call, run in zip(calls, runs, strict=True):
            call.finish()
            run.finish()
        await asyncio.gather(*consumers)
        return cpu

    with Bus(entry_points=False) as bus:
        return asyncio.run(together())


def raw_from_threads(crowd: Crowd) -> float:
    """The same with a raw `asyncio.Queue` each, fed by ``call_soon_threadsafe`` per chunk."""

    async def together() -> float:
        came = 0
        loop = asyncio.get_running_loop()
        queues: list[asyncio.Queue[object]] = [asyncio.Queue() for _ in range(crowd.agents)]
        puts = [frames.put_nowait for frames in queues]

        async def consume(frames: asyncio.Queue[object]) -> None:
            nonlocal came
            while await frames.get() is not None:
                came += 1

        def send(number: int) -> None:
            loop.call_soon_threadsafe(puts[number], stamped_chunk(number))

        consumers = [asyncio.ensure_future(consume(frames)) for frames in queues]
        cpu = await _fed(crowd, send, lambda: came)
        for put in puts:
            put(None)
        await asyncio.gather(*consumers)
        return cpu

    return asyncio.run(together())
