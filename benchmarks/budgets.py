"""What a recorded stream may cost: the twelve budgets of the path from a model's chunk to its consumer and the disk.

The load is what a service does all day: agents that stream the chunks of a call, each to a consumer. Ratios are of one
process and run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
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
    from benchmarks._agents import Crowd

AGENTS: Final = 1000
PACE: Final = 20
SECONDS: Final = 2.0
FEW: Final = 10
"""Agents of the peer that commits each chunk, so that it keeps up."""


def quantile(values: Sequence[float], share: float) -> float:
    """The least of ``values`` that at least that share of them doesn't exceed; they are sorted."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def _least(candidates: dict[str, Callable[[Crowd], float]], crowd: Crowd, repeat: int) -> dict[str, float]:
    """The least of each, taking turns in one process, which has nothing else to do."""
    from benchmarks import _agents

    return alone(_agents.least, candidates, crowd, repeat)


def _crowd(size: Size, agents: int = AGENTS, pace: int = PACE) -> Crowd:
    from benchmarks import _agents

    return _agents.Crowd(size.n(agents, 10), pace, 0.2 if size.quick else SECONDS)


def sustained(size: Size) -> Iterator[Row]:
    """Agents in calls: recorded, unrecorded, and through raw queues."""
    from benchmarks import _agents

    crowd, repeat = _crowd(size), size.repeat(3)
    on_a_loop: dict[str, Callable[[Crowd], float]] = {
        "recorded": _agents.recorded_cpu,
        "streamed": _agents.streamed,
        "raw": _agents.raw,
    }
    cpu = _least(on_a_loop, crowd, repeat)
    what = f"sustained, {crowd.agents:,} agents at {PACE} chunks/s"
    yield Row(f"{what}, CPU per chunk, recorded / unrecorded", cpu["recorded"], cpu["streamed"], 1.35)
    yield Row(f"{what}, CPU per chunk / a raw asyncio.Queue each", cpu["streamed"], cpu["raw"], 1.2)
    threads = _least({"streamed": _agents.streamed_from_threads, "raw": _agents.raw_from_threads}, crowd, repeat)
    yield Row("  the same from four threads / call_soon_threadsafe per chunk", threads["streamed"], threads["raw"], 0.7)
    found = alone(_agents.recorded, crowd)
    yield Row("  recorded: from emission to consumer, p99", quantile(found.delivered, 0.99) * 1e6, None, 50e3, "µs")
    yield Row("  recorded: from emission to disk, p99", quantile(found.written, 0.99) * 1e6, None, 250e3, "µs")
    yield from _among_peers(size, cpu)
    # Long enough that what each run costs once is a small part.
    few = _agents.Crowd(size.n(100, 10), 50, 0.2 if size.quick else 10.0)
    found = alone(_agents.recorded, few)
    yield Row("bytes on disk per chunk of 5 characters at 50 chunks/s", found.size, None, 30, "bytes")
    yield Row("rows per chunk at 50 chunks/s", found.rows, None, 0.1, "")


def _among_peers(size: Size, cpu: dict[str, float]) -> Iterator[Row]:
    from benchmarks import _agents

    if installed("langgraph.checkpoint.sqlite"):
        from benchmarks import _peer_agents_langgraph

        crowd = _crowd(size)
        peer = _least({"peer": _peer_agents_langgraph.recorded}, crowd, 1)["peer"]
        yield Row(
            f"  CPU per chunk, recorded, {crowd.agents:,} agents / LangGraph with its SQLite saver",
            cpu["recorded"],
            peer,
        )
    if record.has_dbos():
        from benchmarks import _peer_agents_dbos

        both: dict[str, Callable[[Crowd], float]] = {
            "ours": _agents.recorded_cpu,
            "peer": _peer_agents_dbos.recorded,
        }
        found = _least(both, _crowd(size, FEW), size.repeat(2))
        yield Row(f"  CPU per chunk, recorded, {FEW} agents / DBOS streams", found["ours"], found["peer"])


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
                {"ours": per_call(partial(_run_each, bus), few), "peer": per_call(empty, few)}, size.repeat(5)
            )
    what = "a run with one stream, recorded, from start to end"
    yield Row(f"{what} / a workflow of DBOS without steps", least["ours"] / 1000, least["peer"] / 1000, 0.3, "µs")


def _run_each(bus: Bus, n: int) -> None:
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
