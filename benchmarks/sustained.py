"""What a sustained load costs: a thousand streamed runs, recorded to SQLite, for two minutes.

A burst that lands in one commit measures batching; here a commit gets a few chunks of each of many runs. Four threads
emit, each in its share of the runs, at absolute times and evenly spread; each run has a consumer on one event loop. It
takes longer than the other scripts: about four minutes.

Latencies count from the time in the envelope. From emit to consumer they are those of all chunks; from emit to disk of
some, chosen at random, that the store was asked about when they were emitted: which hurries it, where it would have
gathered events for some milliseconds more. How late an emitter was against its pace is a row of its own. The processor
time is that of the whole process, with what measuring costs; what the pacing costs alone is taken off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from benchmarks._alone import alone
from benchmarks._harness import Size, installed
from benchmarks._table import Curve, Line, Row, main

if TYPE_CHECKING:
    from benchmarks._load import Found, Load

FULL: Final = (1000, 50, 120.0)
"""Runs, chunks a second of each, seconds."""
LESS: Final = ((1000, 30, 25.0), (1000, 20, 25.0), (1000, 10, 25.0))
QUICK: Final = (20, 50, 2.0)
PACING: Final = 5.0
"""Seconds for which the pacing alone is measured."""
WARM: Final = 20.0
"""Seconds, or a fifth of the load, after which memory is to stay as it is."""
GROWTH: Final = 2 * 2**20
LATE: Final = 1.02
"""What passes for keeping up: the last chunk is on disk so soon after the end, as a part of the whole."""


def quantile(values: Sequence[float], share: float) -> float:
    """The least of ``values`` that at least that share of them doesn't exceed; they are sorted."""
    return values[min(int(len(values) * share), len(values) - 1)]


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
    from benchmarks import _load

    for number, (runs, pace, seconds) in enumerate([QUICK] if size.quick else [FULL, *LESS]):
        load = _load.Load(runs, pace, seconds)
        pacing = alone(_load.pacing, _load.Load(runs, pace, min(PACING, seconds / 4)))
        found = alone(_load.sustained, load)
        yield from table(load, found, pacing, GROWTH if number == 0 else None)
        if number == 0:
            yield from courses(load, found)


if __name__ == "__main__":
    main(rows)
