"""A queue of DBOS and its executors, on one SQLite system database."""

# mypy: allow-untyped-calls
from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from dbos import DBOS

from benchmarks._peer_dbos import launched
from benchmarks._workers import CONCURRENCY, Times

QUEUE: Final = "benchmarks"
POLL: Final = 0.03
"""Seconds between two looks at the queue: as often as ours looks for a change. Its default is 1."""


def _queued_mark() -> float:
    return time.time()


_step: Any = DBOS.step()(_queued_mark)


def _queued_flow(steps: int) -> list[float]:
    return [*(_step() for _ in range(steps)), time.time()]


_workflow: Any = DBOS.workflow()(_queued_flow)


@contextmanager
def serving(path: Path) -> Iterator[None]:
    """An executor."""
    with launched(path, [QUEUE], executor_id=f"executor-{os.getpid()}", application_version="1"):
        yield


class Queue:
    """Puts runs into the queue, and collects what they return."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def put(self, steps: int) -> None:
        """Queue a run of so many steps."""
        self._handles.append(DBOS.enqueue_workflow(QUEUE, _workflow, steps))

    def collect(self) -> list[Times]:
        """Wait for all runs that were put since the last call."""
        handles, self._handles = self._handles, []
        return [handle.get_result() for handle in handles]


@contextmanager
def queue(path: Path) -> Iterator[Queue]:
    """A queue in a program that executes no runs."""
    with launched(path, executor_id="queue", application_version="1"):
        DBOS.register_queue(QUEUE, worker_concurrency=CONCURRENCY, polling_interval_sec=POLL)
        yield Queue()
