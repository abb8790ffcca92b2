"""Measuring: candidates interleaved in one process, garbage collection left on, least of the repeats; and the table."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import attrs

import crewbus
from crewbus import Bus, Chunk, Envelope

PACKAGES: Final = ("crewbus", "attrs", "cattrs", "pluggy", "blinker", "pyee")

now: Final = time.time


@crewbus.event(name="benchmarks.TaskFinished")
class TaskFinished:
    task: str
    output: str


def stamped(seq: int, run_id: str | None = "0199f3f2a1b2c3d4e5f60718293a") -> Envelope:
    """What a handler of the bus gets, built by hand: for peers, which carry whatever they are given."""
    return Envelope(TaskFinished("research", "done"), run_id, seq, None, now(), None, 1, False)


def stamped_chunk(seq: int, run_id: str = "0199f3f2a1b2c3d4e5f60718293a") -> Envelope:
    """What a stream of the bus yields, built by hand."""
    return Envelope(Chunk("Hello"), run_id, seq, None, now(), None, 1, False)


def handler(envelope: Envelope) -> None:
    pass


def emitting(bus: Bus) -> Callable[[int], None]:
    def loop(n: int) -> None:
        emit = bus.emit
        for _ in range(n):
            emit(TaskFinished("research", "done"))

    return loop


@attrs.frozen
class Size:
    """How much to measure: enough for a steady minimum, or, to try the scripts, next to nothing."""

    quick: bool = False

    def n(self, full: int, quick: int = 20) -> int:
        """``full``, or ``quick`` where it should be quick."""
        return quick if self.quick else full

    def repeat(self, full: int) -> int:
        """How often to repeat."""
        return 1 if self.quick else full


@attrs.frozen
class Row:
    """One line of the table: ours against a peer as a ratio, or, without a peer, ours against a limit."""

    what: str
    ours: float
    peer: float | None
    budget: float | None = None
    """The ratio, or without a peer the amount, that is allowed; None: for comparison only."""
    unit: str = "ns"

    @property
    def ratio(self) -> float | None:
        return None if self.peer is None else self.ours / self.peer

    @property
    def met(self) -> bool | None:
        if self.budget is None:
            return None
        return (self.ours if self.ratio is None else self.ratio) <= self.budget

    def cells(self) -> tuple[str, ...]:
        met = {None: "", True: "met", False: "NOT MET"}[self.met]
        budget = "" if self.budget is None else f"{self.budget:,.0f}" if self.peer is None else f"{self.budget:.2f}"
        peer = "" if self.peer is None else f"{self.peer:,.0f}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return self.what, self.unit, f"{self.ours:,.0f}", peer, ratio, budget, met


Rows = Callable[[Size], Iterable[Row]]
Timed = Callable[[], float]


def interleaved(candidates: Mapping[str, Timed], repeat: int) -> dict[str, float]:
    """The least that each candidate returned; all take turns, so that a noisy moment hits all alike."""
    least = dict.fromkeys(candidates, float("inf"))
    for _ in range(repeat):
        for name, candidate in candidates.items():
            least[name] = min(least[name], candidate())
    return least


def per_call(loop: Callable[[int], object], n: int) -> Timed:
    """The nanoseconds for each of ``n`` rounds of ``loop(n)``, which does its own looping."""

    def timed() -> float:
        start = time.perf_counter_ns()
        loop(n)
        return (time.perf_counter_ns() - start) / n

    return timed


HEAD: Final = ("what", "unit", "ours", "peer", "ratio", "budget", "")


def show(rows: Iterable[Row]) -> Iterator[Row]:
    """Print each row as soon as it is measured, and pass it on."""
    print(_line(HEAD))
    for row in rows:
        print(_line(row.cells()), flush=True)
        yield row


def _line(cells: tuple[str, ...]) -> str:
    what, unit, ours, peer, ratio, budget, met = cells
    return f"{what:<86} {unit:<5} {ours:>9} {peer:>9} {ratio:>6} {budget:>9}  {met}".rstrip()


def versions() -> dict[str, str]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: version(name) for name in PACKAGES},
    }


def main(*parts: Rows) -> None:
    """The command line of a script: measure its ``parts``, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description="Print what the bus costs, next to what it may cost.")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table there as well")
    parser.add_argument("--quick", action="store_true", help="only try the scripts: the figures mean nothing")
    options = parser.parse_args()
    known = versions()
    print(", ".join(f"{name} {number}" for name, number in known.items()), f"({sys.platform})\n")
    size = Size(options.quick)
    table = list(show(row for part in parts for row in part(size)))
    missed = sum(row.met is False for row in table)
    print(f"\n{sum(row.met is True for row in table)} budgets met, {missed} not; the other rows are for comparison.")
    if options.json is not None:
        lines = [{**attrs.asdict(row), "ratio": row.ratio, "met": row.met} for row in table]
        options.json.write_text(json.dumps({"versions": known, "rows": lines}, indent=2) + "\n")
