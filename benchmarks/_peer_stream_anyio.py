"""anyio: a memory object stream each, its producer a task; a thread would call `from_thread` for each item."""

from __future__ import annotations

import asyncio
import math

from anyio import create_memory_object_stream

from benchmarks._harness import stamped_chunk
from benchmarks._together import Clock
from crewbus import Envelope


async def consume(clock: Clock, count: int, burst: int) -> None:
    # Unbounded, and filled with send_nowait, since `await send()` gives way after each item by itself.
    send, receive = create_memory_object_stream[Envelope](math.inf)

    async def produce() -> None:
        with send:
            put = send.send_nowait
            await clock.begin()
            for at in range(0, count, burst):
                for seq in range(at, at + burst):
                    put(stamped_chunk(seq))
                await asyncio.sleep(0)
            await clock.end()

    producer = asyncio.ensure_future(produce())
    left = count
    with receive:
        async for _ in receive:
            left -= 1
            if not left:
                clock.done()
    await producer
