"""What the bus keeps: nothing of a million events, little of an open run."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Final

from benchmarks import _growth
from benchmarks._alone import alone
from benchmarks._harness import Size, installed
from benchmarks._table import Row, main
from crewbus import Bus, Run, Stream

GROWTH: Final = 2 * 2**20


def unrecorded(size: Size) -> Iterator[Row]:
    n = size.n(1_000_000, 2000)
    resident, traced = alone(_growth.unrecorded, n)
    yield Row(f"growth after {n:,} unrecorded events, resident set", resident, None, GROWTH, "bytes")
    yield Row(f"growth after {n // 20:,} more, tracemalloc", traced, None, GROWTH, "bytes")


def recorded(size: Size) -> Iterator[Row]:
    if installed("crewbus_sqlite"):
        n = size.n(1_000_000, 2000)
        grown = alone(_growth.recorded, n)
        what = f"growth after {n:,} events recorded to SQLite and flushed, resident set"
        yield Row(what, grown, None, GROWTH, "bytes")


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
    yield from unrecorded(size)
    yield from recorded(size)
    yield from open_run(size)


if __name__ == "__main__":
    main(rows)
