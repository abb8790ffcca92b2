"""What the bus keeps: nothing of a million events, little of an open run."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Final

from benchmarks._harness import Row, Size, main
from crewbus import Bus, Run, Stream

# Half of the events in one run that stays open, half in many short ones. Prints the growth of the
# resident set in bytes, and of what tracemalloc sees, over a second, smaller, round.
CHILD: Final = """
import gc, json, resource, sys, tracemalloc
import crewbus

@crewbus.event
class Finished:
    task: str
    output: str

def resident():
    gc.collect()
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def emit(n):
    for i in range(n):
        bus.emit(Finished(f"task {i}", f"output {i}"))

def all_of(n):
    with bus.run():
        emit(n // 2)
        grown = [resident()]
    for _ in range(100):
        with bus.run():
            emit(n // 200)
    return max(*grown, resident())

events = int(sys.argv[1])
bus = crewbus.Bus(entry_points=False)
bus.on(Finished, lambda envelope: None)
all_of(events // 100)
before = resident()
grown = all_of(events) - before
tracemalloc.start()
all_of(events // 100)
gc.collect()
kept = tracemalloc.get_traced_memory()[0]
all_of(events // 20)
gc.collect()
print(json.dumps([max(grown, 0), max(tracemalloc.get_traced_memory()[0] - kept, 0)]))
"""


def events(size: Size) -> Iterator[Row]:
    n = size.n(1_000_000, 2000)
    child = subprocess.run([sys.executable, "-c", CHILD, str(n)], check=True, capture_output=True, text=True)
    resident, traced = json.loads(child.stdout)
    yield Row(f"growth after {n:,} unrecorded events, resident set", resident, None, 2 * 2**20, "bytes")
    yield Row(f"growth after {n // 20:,} more, tracemalloc", traced, None, 2 * 2**20, "bytes")


def open_run(size: Size) -> Iterator[Row]:
    n = size.n(1000)
    with Bus(entry_points=False) as bus:
        kept: list[tuple[Run, Stream]] = [_opened(bus)]
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            kept += [_opened(bus) for _ in range(n)]
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for run, stream in kept:
            stream.close()
            run.finish()
    yield Row("an open run with one stream, tracemalloc", (after - before) / n, None, 1500, "bytes")


def _opened(bus: Bus) -> tuple[Run, Stream]:
    run = bus.run()
    run.start()
    return run, bus.subscribe(run.id)


def rows(size: Size) -> Iterator[Row]:
    yield from events(size)
    yield from open_run(size)


if __name__ == "__main__":
    main(rows)
