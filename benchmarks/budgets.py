"""What a recorded stream may cost: the twelve budgets of the path from a model's chunk to its consumer and the disk.

The load is what a service does all day: agents that stream the chunks of a call, each to a consumer. Ratios are of one
process and run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import calls, emit, record, stream
from benchmarks._alone import alone
from benchmarks._harness import Size, installed, interleaved, per_call
from benchmarks._recorded import recorded_bus
from benchmarks._table import Row, main
from crewbus import Bus

if TYPE_CHECKING:
    from benchmarks._agents import Carry, Crowd

AGENTS: Final = 1000
PACE: Final = 20
SECONDS: Final = 2.0


def crowd_of(size: Size, agents: int = AGENTS, pace: int = PACE, seconds: float = SECONDS) -> Crowd:
    """So many agents; a few for a moment where it should be quick."""
    from benchmarks._agents import Crowd

    return Crowd(size.n(agents, min(agents, 10)), pace, 0.2 if size.quick else seconds)


def sustained(size: Size) -> Iterator[Row]:
    """Agents in calls: recorded, unrecorded, and through raw queues; each group in a process that does nothing else."""
    from benchmarks import _agents, _agents_raw, _agents_threads

    crowd, repeat = crowd_of(size), size.repeat(3)
    on_a_loop: dict[str, Carry] = {
        "recorded": _agents.recorded,
        "streamed": _agents.streamed,
        "raw": _agents_raw.raw,
    }
    cpu = alone(_agents.least, on_a_loop, crowd, repeat)
    what = f"sustained, {crowd.agents:,} agents at {PACE} chunks/s"
    yield Row(f"{what}, CPU per chunk, recorded / unrecorded", cpu["recorded"], cpu["streamed"], 1.35)
    yield Row(f"{what}, CPU per chunk / a raw asyncio.Queue each", cpu["streamed"], cpu["raw"], 1.2)
    fed: dict[str, Carry] = {
        "streamed": _agents_threads.streamed_from_threads,
        "raw": _agents_threads.raw_from_threads,
    }
    threads = alone(_agents.least, fed, crowd, repeat)
    yield Row("  the same from four threads / call_soon_threadsafe per chunk", threads["streamed"], threads["raw"], 0.7)
    delivered, written = alone(_agents.recorded_latencies, crowd, size.repeat(2))
    yield Row("  recorded: from emission to consumer, p99", delivered * 1e6, None, 50e3, "µs")
    yield Row("  recorded: from emission to disk, p99", written * 1e6, None, 250e3, "µs")
    # Long enough that what each run costs once is a small part.
    found = alone(_agents.recorded, crowd_of(size, 100, 50, 10.0))
    yield Row("bytes on disk per chunk of 5 characters at 50 chunks/s", found.size, None, 30, "bytes")
    yield Row("rows per chunk at 50 chunks/s", found.rows, None, 0.1, "")


def events(size: Size) -> Iterator[Row]:
    """Events other than chunks."""
    with tempfile.TemporaryDirectory() as folder:
        yield from islice(record.unsynced(size, Path(folder)), 1)


def in_memory(size: Size) -> Iterator[Row]:
    """What needs no disk."""
    yield from islice(calls.streamed(size), 1)
    yield from stream.in_tasks(size, (1, 100, 1000), (1,))
    yield from islice(stream.threads_to_threads(size), 1, None)
    yield from islice(emit.armed(size), 1)


def whole_runs(size: Size) -> Iterator[Row]:
    """The start and end of a run with one stream, recorded, against a workflow of DBOS without steps."""
    if not record.has_dbos():
        return
    from benchmarks import _peer_dbos

    few = size.n(100, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with recorded_bus(folder / "runs.db") as bus, _peer_dbos.stepping(folder / "dbos.db") as workflow:

            def empty(n: int) -> None:
                for _ in range(n):
                    workflow(0)

            least = interleaved(
                {"ours": per_call(partial(run_each, bus), few), "peer": per_call(empty, few)}, size.repeat(5)
            )
    what = "a run with one stream, recorded, from start to end"
    yield Row(f"{what} / a workflow of DBOS without steps", least["ours"] / 1000, least["peer"] / 1000, 0.3, "µs")


def run_each(bus: Bus, n: int) -> None:
    """Each run is on disk before the next starts, as a workflow is."""
    for _ in range(n):
        with bus.stream(_nothing) as frames:
            for _ in frames:
                pass
        bus.flush()


def _nothing() -> None:
    pass


def rows(size: Size) -> Iterator[Row]:
    if installed("crewbus_sqlite"):
        yield from sustained(size)
        yield from events(size)
    yield from in_memory(size)
    if installed("crewbus_sqlite"):
        yield from whole_runs(size)


if __name__ == "__main__":
    main(rows)
