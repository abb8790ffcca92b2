"""DBOS with SQLite as its system database: launched, and a workflow of steps."""

# mypy: allow-untyped-calls
from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from dbos import DBOS

from benchmarks._harness import installed

OLDEST: Final = (3, 42, 0)
"""The SQLite that its schema needs, for the milliseconds of ``unixepoch``."""


def usable() -> bool:
    """Whether it finds an SQLite that is new enough: Python's own, or the one that pysqlite3 brings."""
    return sqlite3.sqlite_version_info >= OLDEST or installed("pysqlite3")


def _work(number: int) -> int:
    return number


_step: Any = DBOS.step()(_work)


def _flow(n: int) -> None:
    for number in range(n):
        _step(number)


_workflow: Any = DBOS.workflow()(_flow)


@contextmanager
def launched(path: Path, queues: Sequence[str] = (), **options: str) -> Iterator[None]:
    """DBOS with its system database at a path, which executes what is in these queues."""
    config: Any = {
        "name": "benchmarks",
        "system_database_url": f"sqlite:///{path}",
        "log_level": "ERROR",
        "enable_otlp": False,
        **options,
    }
    if sqlite3.sqlite_version_info < OLDEST:
        import pysqlite3

        config["db_engine_kwargs"] = {"module": pysqlite3}
    DBOS(config=config)
    DBOS.listen_queues(queues)
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()


@contextmanager
def stepping(path: Path) -> Iterator[Callable[[int], None]]:
    """A loop that carries out a workflow of so many steps."""
    with launched(path):
        yield _workflow


@contextmanager
def stepping_at(url: str) -> Iterator[Callable[[int], None]]:
    """As `stepping`, with the PostgreSQL database at a URL."""
    config: Any = {"name": "benchmarks", "system_database_url": url, "log_level": "ERROR", "enable_otlp": False}
    DBOS(config=config)
    DBOS.launch()
    try:
        yield _workflow
    finally:
        DBOS.destroy()
