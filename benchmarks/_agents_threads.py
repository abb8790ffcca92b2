"""Agents that four threads feed, each agent with a consumer on one event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

from benchmarks._agents import Crowd, Found
from benchmarks._harness import stamped_chunk
from crewbus import Bus, Chunk, Run

THREADS: Final = 4
SLOT: Final = 0.001
"""Seconds for which a thread sleeps when nothing is due."""


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


async def _fed(crowd: Crowd, send: Callable[[int], object], count: Callable[[], int]) -> Found:
    """The processor time of chunks that four threads send at the pace."""
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
    while count() < crowd.total:  # noqa: ASYNC110 - telling would be a cost of its own
        await asyncio.sleep(SLOT)
    cpu = time.process_time() - cpu
    for thread in threads:
        thread.join()
    return Found(cpu * 1e9 / crowd.total)


def streamed_from_threads(crowd: Crowd) -> Found:
    """Four threads emit in the calls of so many runs; each run has a consumer on one loop."""

    async def together() -> Found:
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
        found = await _fed(crowd, lambda number: chunks[number]("Hello"), lambda: came)
        for call, run in zip(calls, runs, strict=True):
            call.finish()
            run.finish()
        await asyncio.gather(*consumers)
        return found

    with Bus(entry_points=False) as bus:
        return asyncio.run(together())


def raw_from_threads(crowd: Crowd) -> Found:
    """The same with a raw `asyncio.Queue` each, fed by ``call_soon_threadsafe`` per chunk."""

    async def together() -> Found:
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
        found = await _fed(crowd, send, lambda: came)
        for put in puts:
            put(None)
        await asyncio.gather(*consumers)
        return found

    return asyncio.run(together())
