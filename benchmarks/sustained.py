"""What a sustained load costs: agents beside their peers, then a thousand streamed runs, recorded to SQLite.

A burst that lands in one commit measures batching; here a commit gets a few chunks of each of many runs.

The agents run on one event loop, and each peer carries the same chunks. The peers take turns in one process. What each
promises differs: docs/benchmarks.md says how. DBOS commits each chunk, so it has a row with few agents, which it keeps
up with.

The runs are fed by four threads, each in its share of the runs, at absolute times and evenly spread; each run has a
consumer on one event loop.

Latencies count from the time in the envelope. From emit to consumer they are those of all chunks; from emit to disk of
some, chosen at random, that the store was asked about when they were emitted: which hurries it, where it would have
gathered events for some milliseconds more. How late an emitter was against its pace is a row of its own. The processor
time is that of the whole process, with what measuring costs; what the pacing costs alone is taken off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from benchmarks._alone import alone
from benchmarks._harness import Size, installed, quantile
from benchmarks._table import Curve, Line, Row, main
from benchmarks.budgets import crowd_of
from benchmarks.record import has_dbos

if TYPE_CHECKING:
    from benchmarks._agents import Carry, Crowd
    from benchmarks._load import Found, Load

FULL: Final = (1000, 20, 25.0)
"""Runs, chunks a second of each, seconds."""
LESS: Final = (1000, 10, 8.0)
FEW: Final = (4, 10)
"""Agents of the peer that commits each chunk, and the chunks a second of each."""
OURS: Final = "ours"
RAW: Final = "a raw asyncio.Queue each"
QUICK: Final = (20, 50, 2.0)
PACING: Final = 3.0
"""Seconds for which the pacing alone is measured."""
WARM: Final = 10.0
"""Seconds, or a fifth of the load, after which memory is to stay as it is."""
GROWTH: Final = 2 * 2**20
LATE: Final = 1.02
"""What passes for keeping up: the last chunk is on disk so soon after the end, as a part of the whole."""


def among_peers(size: Size) -> Iterator[Row]:
    """Agents that are recorded, next to what else carries and keeps their chunks."""
    from benchmarks import _agents_raw

    peers: dict[str, Carry] = {
        RAW: _agents_raw.raw,
        "that, and a table that a thread commits every 20 ms": _agents_raw.by_hand,
    }
    if installed("langgraph.checkpoint.sqlite"):
        from benchmarks import _peer_agents_langgraph

        peers["LangGraph with its SQLite saver"] = _peer_agents_langgraph.recorded
    crowd = crowd_of(size)
    yield from _beside(crowd, peers, size.repeat(2))
    if has_dbos():
        from benchmarks import _peer_agents_dbos

        few = crowd_of(size, *FEW)
        yield from _beside(few, {RAW: _agents_raw.raw, "DBOS streams": _peer_agents_dbos.recorded}, 1)


def _beside(crowd: Crowd, peers: dict[str, Carry], repeat: int) -> Iterator[Row]:
    from benchmarks import _agents

    everyone = {OURS: _agents.recorded, **peers}
    cpu = alone(_agents.least, everyone, crowd, repeat)
    p99 = alone(_agents.latencies, everyone, crowd, 1)
    what = f"{crowd.agents:,} agents at {crowd.pace} chunks/s, recorded"
    for peer in peers:
        yield Row(f"{what}, CPU per chunk / {peer}", cpu[OURS], cpu[peer])
        yield Row(f"  from emit to consumer, p99 / {peer}", p99[OURS] * 1e6, p99[peer] * 1e6, unit="µs")


def _latencies(what: str, seconds: Sequence[float]) -> Iterator[Row]:
    ordered = sorted(seconds)
    for name, share in (("p50", 0.5), ("p99", 0.99), ("worst", 1.0)):
        yield Row(f"  from emit to {what}, {name}", quantile(ordered, share) * 1e6, None, unit="µs")


def _described(load: Load) -> str:
    return f"sustained, {load.runs:,} runs at {load.pace} chunks/s, {load.seconds:.0f} s"


def table(load: Load, found: Found, pacing: float, budget: float | None) -> Iterator[Row]:
    """What was found; ``pacing``: seconds of processor time per chunk; ``budget``: by how much memory may grow."""
    rate = found.emitted / found.seconds
    what = f"{_described(load)}: a chunk delivered and on disk every / offered every"
    yield Row(what, 1e9 / rate, 1e9 / load.rate, LATE)
    yield Row("  chunks a second / offered", rate, load.rate, unit="1/s")
    yield Row("  chunks refused, since too much waited to be written", found.refused, None, unit="")
    yield Row("  processor time per chunk, without the pacing", (found.cpu / found.emitted - pacing) * 1e9, None)
    yield Row("  an emitter late, worst", found.behind * 1e6, None, unit="µs")
    yield from _latencies("consumer", found.delivered)
    yield from _latencies("disk", found.written)
    warm = next(second for second in found.course if second.at >= min(WARM, load.seconds / 5))
    grown = max(found.course[-1].resident - warm.resident, 0)
    yield Row(f"  growth from second {warm.at:.0f} to the end, resident set", grown, None, budget, "bytes")
    yield Row("  the store's files, per chunk", found.size / found.emitted, None, unit="bytes")


def courses(load: Load, found: Found) -> Iterator[Curve]:
    """How latency and memory were, second by second."""
    latency, before = [], 0
    for second in found.course:
        if second.delivered > before:
            worst = quantile(sorted(found.delivered[before : second.delivered]), 0.99)
            latency.append((second.at, worst * 1e6))
        before = second.delivered
    resident = [(second.at, second.resident / 2**20) for second in found.course]
    yield Curve(f"{_described(load)}: from emit to consumer, p99", "seconds", {"ours": latency}, "µs")
    yield Curve(f"{_described(load)}: resident set", "seconds", {"ours": resident}, "MB")


def rows(size: Size) -> Iterator[Line]:
    if not installed("crewbus_sqlite"):
        return
    yield from among_peers(size)
    from benchmarks import _load

    for number, (runs, pace, seconds) in enumerate([QUICK] if size.quick else [FULL, LESS]):
        load = _load.Load(runs, pace, seconds)
        pacing = alone(_load.pacing, _load.Load(runs, pace, min(PACING, seconds / 4)))
        found = alone(_load.sustained, load)
        yield from table(load, found, pacing, GROWTH if number == 0 else None)
        if number == 0:
            yield from courses(load, found)


if __name__ == "__main__":
    main(rows)
