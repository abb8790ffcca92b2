"""Recorded runs to measure with: made, left off, gone on with."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Final, Literal

import crewbus
from benchmarks._harness import Timed, per_call
from crewbus import Bus, Run, Store
from crewbus.cli.commands import show
from crewbus_sqlite import SQLiteStore

HERE: Final = "here"
"""The checkpoint that runs are resumed and forked at."""
GROUP: Final = 10_000
"""After how many events a step waits for the disk, so that none is refused since too many wait."""


class LeftOffError(Exception):
    """Ends a run that is resumed later."""


def work(number: int, chunks: int = 1) -> int:
    for done in range(1, chunks + 1):
        crewbus.chunk("Hello")
        if done % GROUP == 0:
            crewbus.current_bus().flush()
    return number


@contextmanager
def recorded_bus(store: Store | Path, durability: Literal["async", "sync"] = "async") -> Iterator[Bus]:
    """A bus that records everything to ``store``; a path is one of an SQLite file."""
    with Bus(entry_points=False) as bus:
        bus.enable_recording(SQLiteStore(store) if isinstance(store, Path) else store, durability=durability)
        yield bus


def carry_out(run: Run, events: int, steps: int) -> None:
    """Emit about so many events in a run: steps, each with one chunk at least, and last the checkpoint."""
    for number in range(steps):
        run.step("work", work, number, max(1, events // steps - 2))
    run.checkpoint(HERE)


def chunking(run: Run) -> Callable[[int], None]:
    """A loop that emits so many chunks in a run, and waits for the disk."""

    def loop(n: int) -> None:
        for _ in range(n):
            run.chunk("Hello")
        run.bus.flush()

    return loop


def leave_off(run: Run, events: int, steps: int) -> str:
    """Carry out a run that fails after its checkpoint; its id."""
    with suppress(LeftOffError), run:
        carry_out(run, events, steps)
        raise LeftOffError
    run.bus.flush()
    return run.id


def resuming(bus: Bus, run_id: str) -> Timed:
    """The nanoseconds from asking to resume a run at its checkpoint until its code asks for the first step."""

    def timed() -> float:
        took = 0.0
        with suppress(LeftOffError):
            start = time.perf_counter_ns()
            with bus.resume(run_id, at=HERE):
                took = time.perf_counter_ns() - start
                raise LeftOffError
        bus.flush()
        return took

    return timed


def forking(bus: Bus, run_id: str) -> Timed:
    """The nanoseconds to fork a run at its checkpoint; the fork is dropped."""

    def timed() -> float:
        start = time.perf_counter_ns()
        fork_id = bus.fork(run_id, at=HERE)
        took = time.perf_counter_ns() - start
        bus.store.drop(fork_id)
        return took

    return timed


def recalling(bus: Bus, run_id: str) -> Timed:
    """The nanoseconds to say how a run stands."""
    return per_call(lambda _: bus.records.info(run_id), 1)


def showing(bus: Bus, run_id: str) -> Timed:
    """The nanoseconds of ``crewbus show --json``, as if the process and the bus were there already."""
    chosen = {"step": None, "failed": False, "depth": None, "unfold": False, "no_pager": True}
    arguments = Namespace(run=run_id, store=None, json=True, **chosen)

    def timed() -> float:
        with redirect_stdout(StringIO()):
            start = time.perf_counter_ns()
            show.main(arguments, bus)
            return time.perf_counter_ns() - start

    return timed


def pruning(bus: Bus, keep: int) -> Timed:
    """The nanoseconds to drop all runs but the newest ``keep``."""

    def timed() -> float:
        start = time.perf_counter_ns()
        bus.records.prune(keep=keep)
        return time.perf_counter_ns() - start

    return timed


def least(timed: Timed, repeat: int) -> float:
    """The least of so many times."""
    return min(timed() for _ in range(repeat))


def n_log_n(counts: Sequence[int]) -> float:
    """By what factor the cost of one of n may grow from the first count to the last, if that of all is n log n."""
    return round(math.log(counts[-1]) / math.log(counts[0]), 2)
