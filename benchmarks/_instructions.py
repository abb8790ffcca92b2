"""How many instructions of the processor a chunk takes, which other work on the machine does not change.

Valgrind's cachegrind counts those of a process that carries so many chunks, and of one that carries more of them; the
difference is that of the chunks.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks._harness import handler, stamped_chunk
from crewbus import Bus, Chunk
from crewbus.stores import MemoryStore

FEW: Final = 100
MORE: Final = 600


def in_a_call(n: int) -> None:
    with Bus(entry_points=False) as bus, bus.run() as run, bus.subscribe(run.id, bound=4 * n) as stream:
        with bus.call("gpt"):
            _chunks(bus, n)
        while stream.source.take(time.monotonic()):
            pass


def to_a_handler(n: int) -> None:
    with Bus(entry_points=False) as bus, bus.run():
        bus.on(Chunk, handler)
        _chunks(bus, n)


def recorded(n: int) -> None:
    with Bus(entry_points=False) as bus:
        bus.enable_recording(MemoryStore())
        with bus.run():
            _chunks(bus, n)


def one_by_one(n: int) -> None:
    async def produce() -> None:
        for _ in range(n):
            bus.chunk("Hello")
            await asyncio.sleep(0)

    async def consume() -> None:
        async with bus.stream(produce) as stream:
            async for _ in stream:
                pass

    with Bus(entry_points=False) as bus:
        asyncio.run(consume())


def through_a_queue(n: int) -> None:
    async def consume() -> None:
        frames: asyncio.Queue[object] = asyncio.Queue()

        async def produce() -> None:
            for seq in range(n):
                frames.put_nowait(stamped_chunk(seq))
                await asyncio.sleep(0)

        producer = asyncio.ensure_future(produce())
        for _ in range(n):
            await frames.get()
        await producer

    asyncio.run(consume())


def _chunks(bus: Bus, n: int) -> None:
    chunk = bus.chunk
    for _ in range(n):
        chunk("Hello")


LOADS: Final[Mapping[str, Callable[[int], None]]] = {
    "in a call, streamed, and taken in batches": in_a_call,
    "to one handler, in a run": to_a_handler,
    "recorded in memory": recorded,
    "asyncio to asyncio, one by one": one_by_one,
    "the same through a raw asyncio.Queue": through_a_queue,
}


def counted(load: str, folder: Path, environment: Mapping[str, str]) -> float:
    """The instructions of a chunk, in processes that are started in ``folder`` with ``environment``."""
    few, more = (_counted(load, n, folder, environment) for n in (FEW, MORE))
    return (more - few) / (MORE - FEW)


def _counted(load: str, n: int, folder: Path, environment: Mapping[str, str]) -> int:
    code = f"from benchmarks._instructions import LOADS; LOADS[{load!r}]({n})"
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run(
        [*valgrind, sys.executable, "-P", "-c", code],
        cwd=folder,
        env={**environment, "PYTHONHASHSEED": "0"},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    counts = [line.split()[-1] for line in done.stderr.splitlines() if " refs:" in line]
    return int(counts[0].replace(",", ""))
