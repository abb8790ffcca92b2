"""Worker processes: started on a queue of runs, asked what they used, ended; and when their runs did what."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from unittest import mock

import attrs

CONCURRENCY: Final = 10
"""How many runs a worker process executes at once."""
STEPS: Final = 10
NOT_QUERIES: Final = ("BEGIN", "COMMIT", "ROLLBACK")

Serving = Callable[[Path], AbstractContextManager[None]]
"""A worker on the database at a path, until the context ends."""
Times = Sequence[float]
"""When each step of a run began, and last when its function ended: what each workflow here returns."""


@attrs.frozen
class Usage:
    """What a process has used so far."""

    cpu: float
    """Seconds of processor time."""
    queries: int
    """Statements of SQLite but those that begin and end transactions; 0 where they are not counted."""


@contextmanager
def workers(serving: Serving, path: Path, count: int, *, counting: bool = False) -> Iterator[Callable[[], Usage]]:
    """So many worker processes, all of which serve; the function says what the first one has used."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        lines: list[Any] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(serving, path, theirs, counting))
            process.start()
            theirs.close()  # so that a process that dies is not waited for
            stack.callback(process.join)
            stack.callback(ours.send, "end")
            lines.append(ours)
        for expected in ("imported", "serving"):  # nobody begins while another one still imports
            for line in lines:
                assert line.recv() == expected
            for line in lines:
                line.send("go on")

        def usage() -> Usage:
            lines[0].send("usage")
            found: Usage = lines[0].recv()
            return found

        yield usage


def _serve(serving: Serving, path: Path, line: Connection, counting: bool) -> None:
    line.send("imported")
    line.recv()
    queries = list[str]()
    with _counting(queries) if counting else ExitStack(), serving(path):
        line.send("serving")
        line.recv()
        while line.recv() == "usage":
            line.send(Usage(time.process_time(), len(queries)))


@contextmanager
def _counting(queries: list[str]) -> Iterator[None]:
    """Note each query of all connections that are opened meanwhile."""
    connect = sqlite3.connect

    def note(statement: str) -> None:
        if not statement.startswith(NOT_QUERIES):
            queries.append(statement)

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(note)
        return connection

    with mock.patch.object(sqlite3, "connect", traced):
        yield


def until_first_steps(runs: Sequence[Times]) -> float:
    """The seconds a run from the first step of the first run until each had begun its first."""
    begun = [times[0] for times in runs]
    return (max(begun) - min(begun)) / len(runs)


def until_ends(runs: Sequence[Times]) -> float:
    """The seconds a run from the first step of the first run until all had ended."""
    return (max(times[-1] for times in runs) - min(times[0] for times in runs)) / len(runs)
