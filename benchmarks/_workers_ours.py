"""Our queue and worker, on an SQLite file with an fsync for each commit, as shipped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import crewbus
from benchmarks._recorded import recorded_bus
from benchmarks._workers import CONCURRENCY, Times
from crewbus import Bus
from crewbus_workers import enqueue, worker, workflow


@crewbus.step
def mark() -> float:
    return time.time()


@workflow(name="benchmarks.flow")
def flow(steps: int) -> list[float]:
    return [*(mark() for _ in range(steps)), time.time()]


@contextmanager
def serving(path: Path) -> Iterator[None]:
    """A worker."""
    with recorded_bus(path) as bus, worker(bus, concurrency=CONCURRENCY):
        yield


class Queue:
    """Puts runs into the queue, and collects what they return."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ids: list[str] = []

    def put(self, steps: int) -> None:
        """Queue a run of so many steps."""
        self._ids.append(enqueue(self._bus, flow, steps))

    def collect(self) -> list[Times]:
        """Wait for all runs that were put since the last call."""
        ids, self._ids = self._ids, []
        return [self._bus.result(run_id, timeout=120) for run_id in ids]


@contextmanager
def queue(path: Path) -> Iterator[Queue]:
    """A queue in a program that executes no runs."""
    with recorded_bus(path) as bus:
        yield Queue(bus)
