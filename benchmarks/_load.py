"""A sustained load, in one process: runs that are fed at a pace, recorded to SQLite, each with a consumer on a loop."""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs

from benchmarks._alone import resident
from crewbus import Bus, Chunk, Run, Stream
from crewbus.exceptions import StoreFullError
from crewbus_sqlite import SQLiteStore

THREADS: Final = 4
SLOT: Final = 0.001
"""Seconds for which a thread sleeps when nothing is due: chunks are spread evenly, not sent in volleys."""
ASKED: Final = 5
"""Of how many chunks a second it is asked when they are on disk: asking hurries the store."""
LENGTH: Final = 10
"""Seconds that a run lasts; then another takes its place, as in a service."""

now: Final = time.time


@attrs.frozen
class Load:
    runs: int
    pace: int
    """Chunks a second of each run."""
    seconds: float

    @property
    def rate(self) -> int:
        """Chunks a second of all."""
        return self.runs * self.pace


@attrs.frozen
class Second:
    """How it stood at one moment."""

    at: float
    """Seconds since the load began."""
    resident: int
    delivered: int


@attrs.frozen
class Found:
    emitted: int
    refused: int
    seconds: float
    """Until all was delivered, and on disk."""
    cpu: float
    """Seconds of processor time until then."""
    behind: float
    """By how many seconds an emitter was late at worst."""
    delivered: Sequence[float] = attrs.field(repr=False)
    """Seconds from emit to consumer, of each chunk in the order in which they came."""
    written: Sequence[float] = attrs.field(repr=False)
    """Seconds from emit to disk, of those that were asked for."""
    course: list[Second]
    size: int
    """The bytes of the store's files."""


class Latencies:
    """Room for as many as there may be, taken beforehand: what measures must not look like growth."""

    def __init__(self, room: int) -> None:
        self._all = array("f", bytes(4 * room))
        self.count = 0

    def add(self, seconds: float) -> None:
        self._all[self.count] = seconds
        self.count += 1

    def all(self) -> Sequence[float]:
        return self._all[: self.count]


def at_pace(send: Callable[[int], object], mine: range, load: Load) -> tuple[int, float]:
    """Send to each of ``mine`` at its pace, evenly spread, until the time is over; how often, and how late at worst.

    What is due follows from the time that has passed, so nothing adds up; who is late catches up as fast as it can.
    """
    rate, sent, behind = len(mine) * load.pace, 0, 0.0
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < load.seconds:
        behind = max(behind, passed - sent / rate)
        due = min(int(passed * rate), sent + len(mine))
        if due == sent:
            time.sleep(SLOT)
        for number in range(sent, due):
            send(mine[number % len(mine)])
        sent = due
    return sent, behind


class Feed:
    """The threads that emit."""

    def __init__(self, send: Callable[[int], object], load: Load) -> None:
        self._send = send
        self._load = load
        self._begun = threading.Event()
        self._ended: list[tuple[int, float]] = []
        self._threads = [threading.Thread(target=self._feed, args=(first,)) for first in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def begin(self) -> None:
        self._begun.set()

    def end(self) -> tuple[int, float]:
        """Wait until the time is over; how often was sent, and how late at worst."""
        for thread in self._threads:
            thread.join()
        return sum(sent for sent, _ in self._ended), max(behind for _, behind in self._ended)

    def _feed(self, first: int) -> None:
        self._begun.wait()
        self._ended.append(at_pace(self._send, range(first, self._load.runs, THREADS), self._load))


def pacing(load: Load) -> float:
    """The seconds of processor time per chunk that the threads cost which emit, if emitting were free."""
    feed = Feed(_nothing, load)
    start = time.process_time()
    feed.begin()
    sent, _ = feed.end()
    return (time.process_time() - start) / sent


def _nothing(number: int) -> None:
    pass


class Places:
    """As many runs at once as the load says; each has a consumer on the loop, and is followed by another."""

    def __init__(self, bus: Bus, load: Load, delivered: Latencies) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._delivered = delivered
        self._length = int(LENGTH * load.pace)
        self.runs = [self._begin() for _ in range(load.runs)]
        # The first ones end at different times, so that later ones do too.
        self._left = [1 + self._length * number // load.runs for number in range(load.runs)]
        self.consumers: set[asyncio.Task[None]] = set()

    def _begin(self) -> Run:
        run = self._bus.run()
        run.start()
        self._loop.call_soon_threadsafe(self._consume, self._bus.subscribe(run.id, slow="block"))
        return run

    def _consume(self, stream: Stream) -> None:
        consumer = self._loop.create_task(consume(stream, self._delivered))
        self.consumers.add(consumer)
        consumer.add_done_callback(self.consumers.discard)

    def run_for(self, number: int) -> Run:
        """The run in a place that the next chunk is for; each place is one thread's."""
        if not self._left[number]:
            self.runs[number].finish()
            self.runs[number] = self._begin()
            self._left[number] = self._length
        self._left[number] -= 1
        return self.runs[number]

    def finish(self) -> None:
        for run in self.runs:
            run.finish()


class Emitter:
    """Emits a chunk in one of the places, and asks of some, chosen at random, when they are on disk."""

    def __init__(self, places: Places, store: SQLiteStore, load: Load) -> None:
        self._run_for = places.run_for
        self._store = store
        self._share = ASKED / load.rate
        self._random = random.Random(load.rate)
        self.written = array("f")
        self.failures: list[BaseException] = []
        self.refused: list[int] = []

    def __call__(self, number: int) -> None:
        try:
            run = self._run_for(number)
            envelope = run.chunk("Hello")
        except StoreFullError:
            self.refused.append(number)
            return
        if envelope is not None and self._random.random() < self._share:
            self._ask(run.id, envelope.at)

    def _ask(self, run_id: str, at: float) -> None:
        def notify(error: BaseException | None) -> None:
            if error is None:
                self.written.append(now() - at)
            else:
                self.failures.append(error)

        self._store.when_written(run_id, notify)


class Watch(threading.Thread):
    """Notes once a second how it stands."""

    def __init__(self, load: Load, delivered: Latencies) -> None:
        super().__init__()
        self._load = load
        self._delivered = delivered
        self.course: list[Second] = []

    def run(self) -> None:
        start = time.perf_counter()
        step = min(1.0, self._load.seconds / 4)
        for number in range(1, round(self._load.seconds / step) + 1):
            time.sleep(max(0.0, start + number * step - time.perf_counter()))
            self.course.append(Second(time.perf_counter() - start, resident(), self._delivered.count))


async def consume(stream: Stream, delivered: Latencies) -> None:
    async with stream:
        async for envelope in stream:
            if type(envelope.event) is Chunk:
                delivered.add(now() - envelope.at)


def sustained(load: Load) -> Found:
    """Put the load on a bus that records to a new file."""
    with tempfile.TemporaryDirectory() as folder, Bus(entry_points=False) as bus:
        store = SQLiteStore(Path(folder, "record.db"))
        bus.enable_recording(store)
        return asyncio.run(_sustained(load, bus, store))


async def _sustained(load: Load, bus: Bus, store: SQLiteStore) -> Found:
    delivered = Latencies(int(load.rate * load.seconds) + load.rate)
    places = Places(bus, load, delivered)
    emitter = Emitter(places, store, load)
    await bus.aflush()
    feed, watch = Feed(emitter, load), Watch(load, delivered)
    cpu, start = time.process_time(), time.perf_counter()
    feed.begin()
    watch.start()
    sent, behind = await asyncio.to_thread(feed.end)
    emitted = sent - len(emitter.refused)
    while delivered.count < emitted:  # noqa: ASYNC110 - telling would be a cost of its own
        await asyncio.sleep(SLOT)
    await bus.aflush()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    await asyncio.to_thread(watch.join)
    await asyncio.to_thread(places.finish)
    await asyncio.gather(*places.consumers)
    if emitter.failures:
        raise emitter.failures[0]
    return Found(
        emitted,
        len(emitter.refused),
        seconds,
        cpu,
        behind,
        delivered.all(),
        emitter.written,
        watch.course,
        sum(path.stat().st_size for path in store.path.parent.iterdir()),
    )
