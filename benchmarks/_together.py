"""Many producers and consumers on one event loop, and what each chunk costs them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks._harness import Timed

# All producers wait before the clock starts, and again until it has stopped at the last chunk, so that
# making and ending runs, tasks and queues is not counted.


class Clock:
    """Starts when every producer is ready, stops when each of the consumers has what it waits for."""

    def __init__(self, runs: int) -> None:
        self.started = asyncio.Event()
        self.stopped = asyncio.Event()
        self.preparing = self.consuming = runs
        self.start = self.stop = 0

    async def begin(self) -> None:
        self.preparing -= 1
        if not self.preparing:
            self.start = time.perf_counter_ns()
            self.started.set()
        await self.started.wait()

    async def end(self) -> None:
        await self.stopped.wait()

    def done(self) -> None:
        self.consuming -= 1
        if not self.consuming:
            self.stop = time.perf_counter_ns()
            self.stopped.set()


Consumer = Callable[[Clock, int, int], Awaitable[None]]


def concurrent(consumer: Consumer, runs: int, count: int, burst: int) -> Timed:
    """The nanoseconds per chunk of ``runs`` consumers with ``count`` chunks each, ``burst`` between two switches."""

    async def together() -> float:
        clock = Clock(runs)
        await asyncio.gather(*(consumer(clock, count, burst) for _ in range(runs)))
        return (clock.stop - clock.start) / (runs * count)

    return lambda: asyncio.run(together())


async def produce(emit: Callable[[str], object], clock: Clock, count: int, burst: int) -> None:
    await clock.begin()
    for _ in range(count // burst):
        for _ in range(burst):
            emit("Hello")
        await asyncio.sleep(0)
    await clock.end()
