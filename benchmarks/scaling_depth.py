"""How the costs of a fork grow with the forks that it descends from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks._harness import Size, Timed, interleaved, per_call
from benchmarks._recorded import forking, leave_off, recalling, recorded_bus, resuming
from benchmarks._table import Curve, main
from crewbus import Bus, MemoryStore, Store

DEPTHS: Final = (1, 10, 100, 1_000)
FLAT: Final = 1.5
"""By what factor grows what does not: each takes a commit, and the disk takes its time."""
PARTS: Final = 4.0
"""The same for what looks for the log that an event is in, or reads from as many logs as there are forks."""
EVENTS: Final = 300
STEPS: Final = 10


def descend(bus: Bus, depths: Sequence[int]) -> dict[int, str]:
    """Fork a run, and the fork, and so on, each at its last event, which is its own; the ids of some, by depth."""
    run_id, found = leave_off(bus.run(), EVENTS, STEPS), {}
    for depth in range(1, depths[-1] + 1):
        run_id = bus.fork(run_id)
        if depth in depths:
            found[depth] = run_id
    return found


def forking_at_the_end(bus: Bus, run_id: str) -> Timed:
    """The nanoseconds to fork a run at its last event; the fork is dropped."""
    return per_call(lambda _: bus.store.drop(bus.fork(run_id)), 1)


def resuming_a_fork(bus: Bus, run_id: str) -> Timed:
    """The nanoseconds until a fork of a run, made at its checkpoint, asks for its first step."""

    def timed() -> float:
        fork_id = bus.fork(run_id, at="here")
        took = resuming(bus, fork_id)()
        bus.store.drop(fork_id)
        return took

    return timed


def reading(bus: Bus, run_id: str) -> Timed:
    """The nanoseconds to read an event of a run: of all of them."""
    count = bus.records.info(run_id).events
    whole = per_call(lambda _: list(bus.records.get(run_id)), 1)
    return lambda: whole() / count


def curves(size: Size, bus: Bus, kind: str) -> Iterator[Curve]:
    found, repeat = descend(bus, size.steps(DEPTHS)), size.repeat(10)
    for what, timed, budget in (
        ("fork at the last event", forking_at_the_end, FLAT),
        ("fork at the first one's checkpoint", forking, PARTS),
        ("resume a fork at a checkpoint, until the first step", resuming_a_fork, FLAT),
        ("bus.records.info", recalling, FLAT),
        ("read, an event", reading, PARTS),
    ):
        took = interleaved({str(depth): timed(bus, run_id) for depth, run_id in found.items()}, repeat)
        points = [(float(depth), took[str(depth)] / 1000) for depth in found]
        yield Curve(f"{what}, {kind}", "forks, one of the other", {"ours": points}, "µs", budget)


def rows(size: Size) -> Iterator[Curve]:
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, Store | Path] = {"SQLite": Path(folder, "runs.db"), "in memory": MemoryStore()}
        for kind, store in stores.items():
            with recorded_bus(store) as bus:
                yield from curves(size, bus, kind)


if __name__ == "__main__":
    main(rows)
