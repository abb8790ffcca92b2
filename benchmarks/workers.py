"""Runs that worker processes execute, next to DBOS's queue and executors; and what a worker costs that has none.

Both queue runs in a file of SQLite, then worker processes begin, each with at most ten runs at once. The times are
those that the steps themselves took down. All write to files in the temporary folder; set TMPDIR to a folder on the
disk to be measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import _workers_ours
from benchmarks._harness import Size, installed
from benchmarks._table import Row, main
from benchmarks._workers import STEPS, Serving, until_ends, until_first_steps, workers

PROCESSES: Final = (1, 4)
QUERIES: Final = 5
CPU: Final = 5.0
"""Milliseconds of processor time a second."""
LATENCY: Final = 100.0
"""Milliseconds from queueing a run to its first step."""
APART: Final = 0.137
"""Seconds between two runs: no multiple of the period at which a worker looks."""

Queue = Callable[[Path], AbstractContextManager[Any]]


@attrs.frozen
class Candidate:
    """Whose queue and workers are measured."""

    name: str
    queue: Queue
    serving: Serving


OURS: Final = Candidate("ours", _workers_ours.queue, _workers_ours.serving)


@attrs.frozen
class Rates:
    """Seconds for each run."""

    enqueue: float
    first_step: float
    end: float

    def least(self, other: Rates) -> Rates:
        """The lesser of each."""
        return Rates(*map(min, attrs.astuple(self), attrs.astuple(other)))


def candidates() -> Iterator[Candidate]:
    """Ours, and DBOS where it is installed."""
    yield OURS
    if installed("dbos"):
        from benchmarks import _peer_dbos, _workers_dbos

        if _peer_dbos.usable():
            yield Candidate("DBOS", _workers_dbos.queue, _workers_dbos.serving)


def measure(candidate: Candidate, path: Path, processes: int, runs: int, steps: int) -> Rates:
    """Queue runs, and have them executed."""
    with candidate.queue(path) as queue:
        took = list[float]()
        for _ in range(runs):
            start = time.perf_counter()
            queue.put(steps)
            took.append(time.perf_counter() - start)
        with workers(candidate.serving, path, processes):
            found = queue.collect()
    # The median: the first of a process opens the file, which DBOS does at its launch.
    return Rates(statistics.median(took), until_first_steps(found), until_ends(found))


def rates(size: Size, folder: Path) -> Iterator[Row]:
    """Against DBOS, in turns."""
    n = size.n(20, 4)
    everyone = list(candidates())
    for processes in size.steps(PROCESSES, 1):
        repeat = size.repeat(2 if processes == 1 else 1)
        burst, ten = (_least(everyone, folder, processes, n, steps, repeat) for steps in (1, STEPS))
        what = f"{processes} worker process{'es' if processes > 1 else ''}, {n} queued runs"
        peers: list[str | None] = [one.name for one in everyone if one is not OURS]
        for name in peers or [None]:
            if processes == 1:
                yield _row("queue a run", "enqueue", burst, name)
            yield _row(f"{what}: from claim to first step, a run", "first_step", burst, name)
            yield _row(f"  {what}: a workflow of {STEPS} steps", "end", ten, name)


def _least(
    everyone: list[Candidate], folder: Path, processes: int, runs: int, steps: int, repeat: int
) -> dict[str, Rates]:
    found = dict[str, Rates]()
    for turn in range(repeat):
        for one in everyone:
            path = folder / f"{one.name}-{processes}-{steps}-{turn}.db"
            rate = measure(one, path, processes, runs, steps)
            found[one.name] = rate.least(found.get(one.name, rate))
    return found


def _row(what: str, figure: str, found: dict[str, Rates], peer: str | None) -> Row:
    ours = getattr(found[OURS.name], figure) * 1e6
    if peer is None:
        return Row(what, ours, None, unit="µs")
    return Row(f"{what} / {peer}", ours, getattr(found[peer], figure) * 1e6, 1.0, "µs")


def idle(size: Size, folder: Path) -> Iterator[Row]:
    """What a worker costs that has nothing to do, and how soon it begins what comes."""
    seconds, n = size.n(5, 1), size.n(20, 2)
    path = folder / "idle.db"
    with OURS.queue(path) as queue:
        queue.put(1)
        with workers(OURS.serving, path, 1, counting=True) as usage:
            queue.collect()
            time.sleep(1)  # what the first run has begun, ends
            before = usage()
            time.sleep(seconds)
            after = usage()
            begun = [_until_first_step(queue) for _ in range(n)]
    yield Row("an idle worker, processor time a second", (after.cpu - before.cpu) / seconds * 1e3, None, CPU, "ms")
    yield Row("  queries a second", (after.queries - before.queries) / seconds, None, QUERIES, "1/s")
    yield Row("  from queueing a run to its first step, p50", statistics.median(begun) * 1e3, None, LATENCY, "ms")


def _until_first_step(queue: Any) -> float:
    time.sleep(APART)
    start = time.time()
    queue.put(1)
    return float(queue.collect()[0][0]) - start


def rows(size: Size) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for part in (rates, idle):
            yield from part(size, Path(folder))


if __name__ == "__main__":
    main(rows)
