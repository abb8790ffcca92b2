"""How the costs of a record grow with its length, and with its steps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks._harness import Size, interleaved, per_call
from benchmarks._recorded import (
    HERE,
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
    work,
)
from benchmarks._table import Curve, main
from crewbus import Bus

LENGTHS: Final = (100, 1_000, 10_000, 100_000)
STEPS: Final = (10, 100, 1_000, 3_000)
EVENTS: Final = "events in the run"
FLAT: Final = 1.5
"""By what factor grows what does not: each takes a commit, and the disk takes its time."""
GROUP: Final = 1000
"""How many events are emitted and flushed together where an emission is measured."""
SHORT: Final = 1000
"""Up to which length a run is emitted to once only, since that makes it a longer one."""
SAVED: Final = 10
"""How many checkpoints are measured at each length."""

Points = list[tuple[float, float]]


# A run of the greatest length, in which emissions and checkpoints are measured as it grows; then runs of all lengths
# are resumed, forked, shown and pruned. All have the same steps and checkpoints, and are in one file.


def growing(bus: Bus, lengths: Sequence[int], groups: int, group: int) -> tuple[str, Points, Points]:
    """The id of the run, what an event costs at each length, and a checkpoint."""
    run = bus.run()
    run.start()
    written, saved = per_call(chunking(run), group), per_call(lambda _: run.checkpoint("more"), 1)
    events, checkpoints = Points(), Points()
    done = 0
    for length in lengths:
        run.step("work", work, length, length - done)
        done = length
        if length <= SHORT:
            events.append((length, least(partial(emitted_once, bus, length, group), groups)))
        else:
            events.append((length, least(written, groups)))
            done += groups * group
        checkpoints.append((length, least(saved, SAVED)))
    run.checkpoint(HERE)
    run.finish(RuntimeError("left off"))
    bus.flush()
    return run.id, events, checkpoints


def emitted_once(bus: Bus, length: int, group: int) -> float:
    """What an event costs in a run of its own that has this length."""
    run = bus.run()
    run.start()
    emit = chunking(run)
    emit(length)
    cost = per_call(emit, group)()
    run.finish()
    bus.flush()
    bus.store.drop(run.id)
    return cost


def left_off(bus: Bus, length: int, steps: int) -> str:
    """The id of a run of this length, with as many steps and checkpoints as that of the greatest."""
    run = bus.run()
    run.start()
    for number in range(steps):
        run.step("work", work, number, max(0, length // steps - 2 - SAVED))
        for _ in range(SAVED):
            run.checkpoint("more")
    run.checkpoint(HERE)
    run.finish(RuntimeError("left off"))
    bus.flush()
    return run.id


def lengths(size: Size, bus: Bus) -> Iterator[Curve]:
    steps = size.steps(LENGTHS)
    groups, group, repeat = size.n(5, 1), size.n(GROUP, 10), size.repeat(10)
    ids = {length: left_off(bus, length, len(steps)) for length in steps[:-1]}
    ids[steps[-1]], events, checkpoints = growing(bus, steps, groups, group)
    yield _curve("record, an event", events, FLAT)
    yield _curve("a checkpoint", checkpoints, FLAT)
    for what, timed in {
        f"resume at a checkpoint, {len(steps)} steps, until the first": resuming,
        "fork at a checkpoint": forking,
        "bus.records.info": recalling,
    }.items():
        took = interleaved({str(length): timed(bus, run_id) for length, run_id in ids.items()}, repeat)
        yield _curve(what, [(length, took[str(length)]) for length in ids], FLAT)
    counts = {length: bus.records.info(run_id).events for length, run_id in ids.items()}
    shown: Points = [(length, least(showing(bus, run_id), 1) / counts[length]) for length, run_id in ids.items()]
    yield _curve("crewbus show, an event", shown, n_log_n(steps))
    left = range(len(ids) - 1, -1, -1)  # the shortest is the oldest
    pruned: Points = [(length, pruning(bus, keep)() / counts[length]) for length, keep in zip(ids, left, strict=True)]
    yield _curve("prune, an event", pruned, n_log_n(steps))


def resumed_steps(size: Size, bus: Bus) -> Iterator[Curve]:
    """Resuming reads where each step began and ended, so it is a step that has its price."""
    steps = size.steps(STEPS)
    points = Points()
    for count in steps:
        run_id = leave_off(bus.run(), 3 * count, count)
        points.append((count, least(resuming(bus, run_id), size.repeat(3)) / count))
    yield _curve("resume at a checkpoint, a step of the record", points, n_log_n(steps), "steps in the run")


def _curve(name: str, points: Points, budget: float, x: str = EVENTS) -> Curve:
    return Curve(name, x, {"ours": [(at, cost / 1000) for at, cost in points]}, "µs", budget)


def rows(size: Size) -> Iterator[Curve]:
    with tempfile.TemporaryDirectory() as folder, recorded_bus(Path(folder, "runs.db")) as bus:
        yield from lengths(size, bus)
        yield from resumed_steps(size, bus)


if __name__ == "__main__":
    main(rows)
