"""What checkpoints, resumes and forks cost in a long record: against a short one, a limit, and copying the record.

And a step that a resumed run recalls, against carrying it out.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Final

import attrs

import crewbus
from benchmarks._harness import Size, Timed, interleaved, per_call
from benchmarks._recorded import LeftOffError, forking, leave_off, recorded_bus, resuming
from benchmarks._table import Row, main
from crewbus import Bus, MemoryStore, Run, Store

STEPS: Final = 100
LIMIT: Final = 1000.0
"""After how many microseconds a resumed run asks for its first step, at most."""
TOGETHER: Final = 10
"""How many checkpoints are timed together."""

# What a fork of a store that shares nothing would write: all rows again, in one transaction, under a new run's numbers.
_COPY: Final = """
INSERT INTO events SELECT id + ?, epoch, run_id, parent, at, source, attempt, name, version, landmark, before, marked,
data, sum, count FROM events WHERE id >> 32 = (SELECT id FROM logs WHERE root_id = ?)
"""

Opened = Callable[[], Store | Path]


def stores(folder: Path) -> dict[str, Opened]:
    """How to have an empty store of each kind."""
    numbers = count()
    return {"SQLite": lambda: folder / f"{next(numbers)}.db", "in memory": MemoryStore}


# Checkpoints


@crewbus.register_entity
@attrs.define
class Crew:
    """An entity that is in another state at each checkpoint."""

    done: int = 0


def running(bus: Bus, events: int) -> tuple[Run, Crew]:
    """A run that so many events were emitted in, with an entity that it tracks."""
    run, crew = bus.run(), Crew()
    run.start()
    run.track("crew", crew)
    for _ in range(events):
        run.chunk("Hello")
    bus.flush()
    return run, crew


def saving(run: Run, crew: Crew) -> Timed:
    def loop(n: int) -> None:
        for _ in range(n):
            crew.done += 1
            run.checkpoint("now")

    return per_call(loop, TOGETHER)


def checkpoints(size: Size, kind: str, opened: Opened) -> Iterator[Row]:
    few, many, repeat = size.n(100), size.n(100_000, 200), size.repeat(20)
    with recorded_bus(opened()) as bus:
        long, crew = running(bus, many)

        def short() -> float:
            run, crew = running(bus, few)
            took = saving(run, crew)()
            run.finish()
            return took

        took = interleaved({"short": short, "long": saving(long, crew)}, repeat)
        long.finish()
    yield _row(f"a checkpoint at {many:,} events / at {few:,}, {kind}", took["long"], took["short"], 1.5)


# Resuming


def resumes(size: Size, kind: str, opened: Opened) -> Iterator[Row]:
    events, runs = size.n(10_000, 300), size.n(20, 2)
    with recorded_bus(opened()) as bus:
        ids = [leave_off(bus.run(), events, STEPS) for _ in range(runs)]
        took = min(resuming(bus, run_id)() for run_id in ids)  # each is resumed once: that adds to its record
    what = f"resume at a checkpoint, {events:,} events, {STEPS} steps, until the first is asked for, {kind}"
    yield _row(what, took, None, LIMIT)


@crewbus.step
def answered(number: int) -> int:
    return number


def answering(n: int) -> None:
    for number in range(n):
        answered(number)


def recalls(size: Size) -> Iterator[Row]:
    took = {"carried out": float("inf"), "recalled": float("inf")}
    with recorded_bus(MemoryStore()) as bus:
        for _ in range(size.repeat(30)):
            run = bus.run()
            for what, execution in (("carried out", run), ("recalled", bus.resume(run.id))):
                with suppress(LeftOffError), execution:
                    took[what] = min(took[what], per_call(answering, STEPS)())
                    raise LeftOffError
    yield _row("a step that is recalled / carried out, in memory", took["recalled"], took["carried out"], 1.0)


# Forks


def forks(size: Size, folder: Path) -> Iterator[Row]:
    events, repeat = size.n(10_000, 300), size.repeat(10)
    path, copy = folder / "forked.db", folder / "copied.db"
    with recorded_bus(path) as bus:
        run_id = leave_off(bus.run(), events, STEPS)
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            with closing(sqlite3.connect(path)) as original:
                original.backup(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            numbers = count(1)

            def copied(_: int) -> None:
                connection.execute(_COPY, (next(numbers) << 32, run_id))

            took = interleaved({"ours": forking(bus, run_id), "copying": per_call(copied, 1)}, repeat)
    yield _row(f"fork of a {events:,}-event run / copying its rows", took["ours"], took["copying"], 1 / 50)


def _row(what: str, ours: float, peer: float | None, budget: float | None = None) -> Row:
    return Row(what, ours / 1000, None if peer is None else peer / 1000, budget, "µs")


def rows(size: Size) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for part in (checkpoints, resumes):
            for kind, opened in stores(Path(folder)).items():
                yield from part(size, kind, opened)
        yield from recalls(size)
        yield from forks(size, Path(folder))


if __name__ == "__main__":
    main(rows)
