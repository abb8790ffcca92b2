"""Processes that follow, execute or write runs in PostgreSQL, for `benchmarks.postgres`."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import _workers_ours
from benchmarks._recorded import recorded_bus
from benchmarks._workers import CONCURRENCY
from crewbus import Bus, Chunk
from crewbus_postgres import PostgresStore, _session
from crewbus_workers import worker


@contextmanager
def _apart(function: Callable[..., None], *args: Any) -> Iterator[Connection]:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=function, args=(theirs, *args))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


# A process that follows


def following(url: str) -> Any:
    """A process that follows the runs it is sent, counts what it asks, and says how late each chunk was."""
    return _apart(_follow, url)


def _follow(line: Connection, url: str) -> None:
    with recorded_bus(PostgresStore(url, schema="followed")) as bus:
        asyncio.run(_follow_all(bus, line))


async def _follow_all(bus: Bus, line: Connection) -> None:
    runs, late = await asyncio.to_thread(line.recv), list[float]()
    tasks = [asyncio.create_task(_follow_one(bus, run, late)) for run in runs]
    watched = bus.store._line.watched  # type: ignore[attr-defined]
    while len(watched._logs) < len(runs):  # noqa: ASYNC110 - nothing notifies of it
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    count = _Counter()
    line.send("following")
    await asyncio.to_thread(line.recv)
    line.send(count.end())
    await asyncio.to_thread(line.recv)
    await asyncio.sleep(0.5)
    line.send(late)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _follow_one(bus: Bus, run: str, late: list[float]) -> None:
    stream = await bus.asubscribe(run, after="start")
    async with stream:
        async for frame in stream:
            if isinstance(frame.event, Chunk):
                late.append(time.time() - frame.at)  # noqa: PERF401 - while it runs


class _Counter:
    """Counts the statements of all sessions of this process."""

    def __init__(self) -> None:
        self.count, self._rows = 0, _session.Session.rows

        def rows(session: Any, *args: Any) -> Any:
            self.count += 1
            return self._rows(session, *args)

        _session.Session.rows = rows  # type: ignore[method-assign,assignment]

    def end(self) -> int:
        _session.Session.rows = self._rows  # type: ignore[method-assign]
        return self.count


# A process that executes


def serving(url: str) -> Any:
    """A process with a worker."""
    return _apart(_serve, url)


def _serve(line: Connection, url: str) -> None:
    _ = _workers_ours.flow  # a worker executes what its process has imported
    with recorded_bus(PostgresStore(url, schema="queued")) as bus, worker(bus, concurrency=CONCURRENCY):
        line.send("serving")
        line.recv()


# Those who write


def commits(url: str, writers: int, seconds: float, followed: bool) -> float:
    """How many commits a second so many stores get, each of one event, whether or not their runs are followed."""
    stores = [PostgresStore(url, schema="crowd") for _ in range(writers)]
    counts, ended = [0] * writers, threading.Event()
    buses = [Bus(entry_points=False) for _ in stores]
    runs = []
    for bus, store in zip(buses, stores, strict=True):
        bus.enable_recording(store, durability="sync")
        run = bus.run()
        run.start()
        runs.append(run)
    reader = PostgresStore(url, schema="crowd")
    stops = [reader.watch_log(run.id, _nothing) for run in runs] if followed else []

    def write(number: int) -> None:
        while not ended.is_set():
            runs[number].chunk("Hello ")
            counts[number] += 1

    threads = [threading.Thread(target=write, args=[number]) for number in range(writers)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 4)
    before, begun = sum(counts), time.monotonic()
    time.sleep(seconds)
    rate = (sum(counts) - before) / (time.monotonic() - begun)
    ended.set()
    for thread in threads:
        thread.join()
    for stop in stops:
        stop()
    for run, bus in zip(runs, buses, strict=True):
        run.finish()
        bus.close()
    reader.close()
    return rate


def _nothing() -> None:
    pass
