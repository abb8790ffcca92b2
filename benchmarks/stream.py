"""What a streamed chunk costs, from tasks and threads to tasks and threads."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from benchmarks._harness import Size, Timed, installed, interleaved, per_call, stamped_chunk
from benchmarks._table import Row, main
from benchmarks._together import Clock, Consumer, concurrent, produce
from crewbus import Bus, Envelope, StreamOptions

__all__ = ["concurrent", "frames", "from_queue", "rows"]

RUNS: Final = (1, 10, 100, 1000)
BURSTS: Final = (1, 10)
BUDGETS: Final = {(1, 1): 1.25, (1, 100): 1.25, (1, 1000): 1.4}
"""By burst and number of runs."""


# asyncio to asyncio; what it costs to make and end runs, tasks and queues has its own row.


def frames(bus: Bus) -> Consumer:
    async def consume(clock: Clock, count: int, burst: int) -> None:
        async with bus.stream(produce, bus.chunk, clock, count, burst) as stream:
            async for _ in stream:
                count -= 1
                if not count:
                    clock.done()

    return consume


async def from_queue(clock: Clock, count: int, burst: int) -> None:
    frames: asyncio.Queue[Envelope] = asyncio.Queue()

    async def produce() -> None:
        put = frames.put_nowait
        await clock.begin()
        for at in range(0, count, burst):
            for seq in range(at, at + burst):
                put(stamped_chunk(seq))
            await asyncio.sleep(0)
        await clock.end()

    producer = asyncio.ensure_future(produce())
    for _ in range(count):
        await frames.get()
    clock.done()
    await producer


def in_tasks(size: Size, counts: Sequence[int] = RUNS, bursts: Sequence[int] = BURSTS) -> Iterator[Row]:
    with Bus(entry_points=False) as bus:
        for burst in bursts:
            paced = "one by one" if burst == 1 else f"in bursts of {burst}"
            ours: dict[int, float] = {}
            for runs in counts:
                count = max(size.n(10_000) // runs, 2 * burst if size.quick else 30)
                candidates = {
                    "ours": concurrent(frames(bus), runs, count, burst),
                    "queue": concurrent(from_queue, runs, count, burst),
                }
                least = interleaved(candidates, size.repeat(7))
                ours[runs] = least["ours"]
                load = f"{paced}, {runs:,} run{'s' * (runs > 1)} / a Queue each"
                yield Row(
                    f"stream, asyncio to asyncio, {load}", least["ours"], least["queue"], BUDGETS.get((burst, runs))
                )
            if {10, 1000} <= ours.keys():
                yield Row(f"  flatness, {paced}: 1,000 runs / 10 runs", ours[1000], ours[10])


def peers() -> Iterator[tuple[str, Consumer, Callable[[Timed], Timed]]]:
    """The consumers of those that are installed, and what must be around the measuring of each."""

    def as_it_is(timed: Timed) -> Timed:
        return timed

    if installed("anyio"):
        from benchmarks import _peer_stream_anyio

        yield "an anyio memory stream each", _peer_stream_anyio.consume, as_it_is
    if installed("langgraph.graph"):
        from benchmarks import _peer_stream_langgraph

        yield 'LangGraph, stream_mode="custom"', _peer_stream_langgraph.consume, as_it_is
    if installed("workflows"):
        from benchmarks import _peer_stream_llamaindex

        yield "LlamaIndex workflows", _peer_stream_llamaindex.consume, as_it_is
    if installed("crewai"):
        from benchmarks import _peer_crewai

        yield "crewAI flows", _peer_crewai.consume, _peer_crewai.quiet


def among_peers(size: Size) -> Iterator[Row]:
    with Bus(entry_points=False) as bus:
        for runs in (1, 100):
            count = max(size.n(1000) // runs, 10)
            candidates = {peer: around(concurrent(consume, runs, count, 1)) for peer, consume, around in peers()}
            least = interleaved({"ours": concurrent(frames(bus), runs, count, 1), **candidates}, size.repeat(7))
            load = f"one by one, {runs:,} run{'s' * (runs > 1)}"
            for peer in candidates:
                yield Row(f"  stream, {load} / {peer}", least["ours"], least[peer])


def opening(size: Size) -> Iterator[Row]:
    """What the other rows leave out: a run with its stream and task, made and ended, with no chunk in it."""
    n = size.n(1000)

    async def nothing() -> None:
        pass

    async def put_nothing(frames: asyncio.Queue[None]) -> None:
        frames.put_nowait(None)

    async def streamed(n: int) -> None:
        for _ in range(n):
            async with bus.stream(nothing) as stream:
                async for _ in stream:
                    pass

    async def queued(n: int) -> None:
        for _ in range(n):
            frames: asyncio.Queue[None] = asyncio.Queue()
            producer = asyncio.ensure_future(put_nothing(frames))
            await frames.get()
            await producer

    with Bus(entry_points=False) as bus:
        candidates = {
            "ours": per_call(lambda n: asyncio.run(streamed(n)), n),
            "queue": per_call(lambda n: asyncio.run(queued(n)), n),
        }
        least = interleaved(candidates, size.repeat(7))
    yield Row("  opening and ending a streamed run / a task and a Queue", least["ours"], least["queue"])


# Threads to asyncio: few threads feed many runs at the pace of models, and processor time is what counts.

THREADS: Final = 4
PACE: Final = 0.02


def paced(send: Callable[[int], object], mine: range, ticks: int, begin: threading.Event) -> None:
    """Send one chunk to each of ``mine`` at each tick."""
    begin.wait()
    start = time.perf_counter()
    for tick in range(1, ticks + 1):
        for number in mine:
            send(number)
        time.sleep(max(0.0, start + tick * PACE - time.perf_counter()))


def fed_by_threads(
    feed: Callable[[int], tuple[Callable[[int], object], list[Awaitable[None]]]], runs: int, ticks: int
) -> Timed:
    """The nanoseconds of processor time per chunk; ``feed(ticks)`` gives how to send to a run, and the consumers."""

    async def together() -> float:
        send, waiting = feed(ticks)
        consumers = [asyncio.ensure_future(consumer) for consumer in waiting]
        begin = threading.Event()
        threads = [
            threading.Thread(target=paced, args=(send, range(first, runs, THREADS), ticks, begin))
            for first in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        await asyncio.sleep(0)  # all consumers wait
        start = time.process_time_ns()
        begin.set()
        await asyncio.gather(*consumers)
        spent = time.process_time_ns() - start
        for thread in threads:
            thread.join()
        return spent / (runs * ticks)

    return lambda: asyncio.run(together())


def threads_to_tasks(size: Size) -> Iterator[Row]:
    count, ticks = size.n(1000), size.n(40, 3)

    def through_streams(ticks: int) -> tuple[Callable[[int], object], list[Awaitable[None]]]:
        runs = [bus.run() for _ in range(count)]
        for run in runs:
            run.start()

        async def consume(number: int) -> None:
            left = ticks
            async with bus.subscribe(runs[number].id) as stream:
                async for _ in stream:
                    left -= 1
                    if not left:
                        break
            runs[number].finish()

        chunks = [run.chunk for run in runs]
        return lambda number: chunks[number]("Hello"), [consume(number) for number in range(count)]

    def through_queues(ticks: int) -> tuple[Callable[[int], object], list[Awaitable[None]]]:
        loop = asyncio.get_running_loop()
        queues: list[asyncio.Queue[Envelope]] = [asyncio.Queue() for _ in range(count)]
        puts = [queue.put_nowait for queue in queues]

        async def consume(number: int) -> None:
            for _ in range(ticks):
                await queues[number].get()

        def send(number: int) -> None:
            loop.call_soon_threadsafe(puts[number], stamped_chunk(number))

        return send, [consume(number) for number in range(count)]

    with Bus(entry_points=False) as bus:
        candidates = {
            "ours": fed_by_threads(through_streams, count, ticks),
            "queues": fed_by_threads(through_queues, count, ticks),
        }
        least = interleaved(candidates, size.repeat(4))
    what = f"stream, {THREADS} threads to asyncio, CPU, {count:,} runs, 50 chunks/s each"
    yield Row(f"{what} / call_soon_threadsafe", least["ours"], least["queues"], 0.7)


# Threads to threads


def threads_to_threads(size: Size) -> Iterator[Row]:
    n, repeat = size.n(30_000, 100), size.repeat(12)

    def produce(n: int) -> None:
        chunk = bus.chunk
        for _ in range(n):
            chunk("Hello")

    def streamed(options: StreamOptions) -> Callable[[int], None]:
        def consume(n: int) -> None:
            with bus.stream(produce, n, options=options) as stream:
                for _ in stream:
                    pass

        return consume

    def queued(frames: queue.SimpleQueue[Envelope] | queue.Queue[Envelope]) -> Callable[[int], None]:
        def fill(n: int) -> None:
            put = frames.put
            for seq in range(n):
                put(stamped_chunk(seq))

        def consume(n: int) -> None:
            producer = threading.Thread(target=fill, args=(n,))
            producer.start()
            get = frames.get
            for _ in range(n):
                get()
            producer.join()

        return consume

    unbounded = StreamOptions(bound=10 * n)  # as a SimpleQueue is; the default bound has its own row
    with Bus(entry_points=False) as bus:
        candidates = {
            "ours": per_call(streamed(unbounded), n),
            "simple": per_call(queued(queue.SimpleQueue()), n),
            "bounded": per_call(streamed(StreamOptions()), n),
            "queue": per_call(queued(queue.Queue(1024)), n),
        }
        least = interleaved(candidates, repeat)
    yield Row("stream, threads to threads / SimpleQueue", least["ours"], least["simple"])
    what = "stream, threads to threads, with the default bound of 1,024 / Queue(1024)"
    yield Row(what, least["bounded"], least["queue"], 0.7)


def rows(size: Size) -> Iterator[Row]:
    yield from in_tasks(size)
    yield from among_peers(size)
    yield from opening(size)
    yield from threads_to_tasks(size)
    yield from threads_to_threads(size)


if __name__ == "__main__":
    main(rows)
