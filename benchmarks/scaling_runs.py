"""How the costs of a record grow with the number of runs in the store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks._harness import Size, Timed, per_call
from benchmarks._recorded import (
    chunking,
    forking,
    least,
    leave_off,
    n_log_n,
    pruning,
    recalling,
    recorded_bus,
    resuming,
    showing,
)
from benchmarks._table import Curve, main
from crewbus import Bus

COUNTS: Final = (10, 100, 1_000, 20_000)
FLAT: Final = 2.0
"""By what factor grows what looks for one run among all: tables get deeper, and the counts are measured in turn."""
GROUP: Final = 1000
"""How many events are emitted and flushed together where an emission is measured."""
FLUSHED: Final = 1000
"""How many runs are added before they are waited for."""
LISTED: Final = 20
INTERRUPTED: Final = {"kind": "interrupted"}
EVENTS: Final = 10
"""Of a run that is resumed, forked and shown, about; one step is in it."""

FLAT_ONES: Final = (
    "record, an event",
    "record, a run of three events, until it is on disk",
    "a checkpoint",
    "resume at a checkpoint, until the first step",
    "fork at a checkpoint",
    "bus.records.info",
    "crewbus show, a short run",
    f"list the newest {LISTED}",
    f"list the newest {LISTED} that were interrupted",
    f"list the newest {LISTED} with a tag",
)
WHOLE_ONES: Final = ("prune the oldest, a run in the store",)


def short(bus: Bus) -> str:
    """Record a run of three events; its id."""
    with bus.run("short") as run:
        run.chunk("Hello")
    return run.id


def add(bus: Bus, first: int, count: int) -> None:
    """Add finished runs of three events, straight to the store: copies of one that the bus recorded."""
    store, original = bus.store, short(bus)
    events = list(store.read(original))
    for number in range(first, first + count - 1):
        run_id = f"{number:028x}"
        epoch = store.begin(run_id)
        for event in events:
            parent = event.parent and event.parent.replace(original, run_id)
            store.append(run_id, epoch, event._replace(run_id=run_id, parent=parent))
        store.finish(run_id, epoch)
        if number % FLUSHED == 0:
            store.flush()
    store.flush()


def interrupt(bus: Bus, count: int) -> None:
    """Add interrupted runs with a tag, straight to the store: copies of the start of one that the bus recorded."""
    with bus.run(tags=INTERRUPTED) as run:
        pass
    start = bus.store.event(run.id, 0)
    bus.store.drop(run.id)
    for number in range(count):
        run_id = f"interrupted {number}"
        epoch = bus.store.begin(run_id)
        bus.store.append(run_id, epoch, start._replace(run_id=run_id))
        bus.store.release(run_id, epoch)


def listing(bus: Bus, **filters: Any) -> Timed:
    """The nanoseconds to list runs."""
    return per_call(lambda _: bus.records.list(**filters), 1)


def costs(bus: Bus, count: int, size: Size) -> Iterator[float]:
    """What each costs with so many runs in the store, in nanoseconds, in the order of the names above."""
    repeat = size.repeat(10)

    def written(_: int) -> None:
        short(bus)
        bus.flush()

    run = bus.run()
    run.start()
    yield least(per_call(chunking(run), size.n(GROUP)), repeat)
    yield least(per_call(written, 1), repeat)
    yield least(per_call(lambda _: run.checkpoint("now"), 1), repeat)
    run.finish()
    run_id = leave_off(bus.run(), EVENTS, 1)
    for timed in (resuming, forking, recalling, showing):
        yield least(timed(bus, run_id), repeat)
    for filters in ({}, {"state": "interrupted"}, {"tags": INTERRUPTED}):
        yield least(listing(bus, limit=LISTED, **filters), repeat)
    yield pruning(bus, len(bus.store.roots()) - 1)() / count


def rows(size: Size) -> Iterator[Curve]:
    counts = size.steps(COUNTS)
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in (*FLAT_ONES, *WHOLE_ONES)}
    with tempfile.TemporaryDirectory() as folder, recorded_bus(Path(folder, "runs.db")) as bus:
        interrupt(bus, 2 * LISTED)
        there = 0
        for count in counts:
            add(bus, there, count - there)
            there = count
            for name, cost in zip(points, costs(bus, count, size), strict=True):
                points[name].append((count, cost / 1000))
    for name, measured in points.items():
        budget = FLAT if name in FLAT_ONES else n_log_n(counts)
        yield Curve(name, "runs in the store", {"ours": measured}, "µs", budget)


if __name__ == "__main__":
    main(rows)
