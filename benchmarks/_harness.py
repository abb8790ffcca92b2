"""Measuring: candidates interleaved in one process, garbage collection left on, least of the repeats."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final

import attrs

import crewbus
from crewbus import Bus, Chunk, Envelope

now: Final = time.time


@crewbus.event(name="benchmarks.TaskFinished")
class TaskFinished:
    task: str
    output: str


def stamped(seq: int, run_id: str | None = "0199f3f2a1b2c3d4e5f60718293a") -> Envelope:
    """What a handler of the bus gets, built by hand: for peers, which carry whatever they are given."""
    return Envelope(TaskFinished("research", "done"), run_id, seq, None, now(), None, 1, False)


def stamped_chunk(seq: int, run_id: str = "0199f3f2a1b2c3d4e5f60718293a", text: str = "Hello") -> Envelope:
    """What a stream of the bus yields, built by hand."""
    return Envelope(Chunk(text), run_id, seq, None, now(), None, 1, False)


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

    def steps(self, full: Iterable[int], quick: int = 2) -> tuple[int, ...]:
        """The sizes that a curve is measured at: all of them, or the first ``quick``."""
        return tuple(full)[:quick] if self.quick else tuple(full)


def installed(module: str) -> bool:
    """Whether a peer can be imported here; it is not imported for the question."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not there
        return False


Timed = Callable[[], float]

PATIENCE: Final = 6.0
"""Seconds after which a measurement is repeated no more: on a busy machine it would take far longer."""
FEWEST: Final = 3
"""How often it is repeated at least."""


def interleaved(candidates: Mapping[str, Timed], repeat: int) -> dict[str, float]:
    """The least that each candidate returned; all take turns, so that a noisy moment hits all alike."""
    least = dict.fromkeys(candidates, float("inf"))
    end = time.monotonic() + PATIENCE
    for turn in range(repeat):
        if turn >= FEWEST and time.monotonic() > end:
            break
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


def quantile(values: Sequence[float], share: float) -> float:
    """The least of ``values`` that at least that share of them doesn't exceed; they are sorted."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0
