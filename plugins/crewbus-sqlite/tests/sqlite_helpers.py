"""What the tests of the store share: events, a record of every kind of thing, and a picture of what is read of it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from crewbus.exceptions import CrewbusError
from crewbus.stores import LogFilter, StoredEvent
from crewbus_sqlite import SQLiteStore

PATIENCE = 60.0
"""Seconds after which a wait means that something hangs."""


def noted(seq: int, run_id: str = "a", name: str = "tests.Noted", data: bytes = b'{"text":"x"}') -> StoredEvent:
    return StoredEvent(run_id, seq, None, 1.5, "source", 0, name, 1, data)


def write(store: SQLiteStore, root: str, epoch: int, numbers: Iterable[int], data: bytes = b"{}") -> None:
    for seq in numbers:
        store.append(root, epoch, noted(seq, root, data=data))


def begun(store: SQLiteStore, root: str = "a", count: int = 3) -> int:
    epoch = store.begin(root)
    write(store, root, epoch, range(count))
    return epoch


def numbers(store: SQLiteStore, root: str = "a") -> list[int]:
    return [event.seq for event in store.read(root)]


def furnish(store: SQLiteStore) -> None:
    """Record something of each kind: nested runs, landmarks, a fork of a fork, sealed and open logs."""
    first = store.begin("first")
    for seq in range(60):
        name = "crewbus.StepFinished" if seq % 7 == 3 else "tests.Noted"
        run = f"first/{seq // 10}" if seq % 3 else "first"
        store.append("first", first, noted(seq, run, name, b'{"number":%d}' % seq))
    store.finish("first", first)
    store.fork("first", 40, "fork")
    epoch = store.acquire("fork")
    for seq in range(41, 60):
        store.append("fork", epoch, noted(seq, "fork/nested", "crewbus.StepStarted" if seq == 50 else "tests.Noted"))
    store.fork("fork", 20, "fork of the fork")
    store.fork("fork", 50, "untaken")
    store.finish("fork", epoch)
    epoch = store.acquire("fork of the fork")
    write(store, "fork of the fork", epoch, range(21, 30), b"\xff\x00" * 300)
    store.append("fork of the fork", epoch, noted(30, data=b"\xff\x00" * 3000))
    for number in range(5):
        store.finish(f"short {number}", begun(store, f"short {number}", number))
    store.drop("short 3")
    for number in range(3):
        root = f"named {number}"
        epoch = store.begin(root)
        start = noted(0, root, "crewbus.RunStarted", b'{"name":"crew","tags":{"tenant":"7","turn":"%d"}}' % number)
        store.append(root, epoch, start)
        store.append(root, epoch, noted(1, root, "crewbus.RunFailed" if number else "crewbus.RunFinished"))
        store.finish(root, epoch)
    for number in range(4):
        store.create(
            f"queued {number}", [noted(0, f"queued {number}", "crewbus.RunStarted", b'{"tags":{"queue":"x"}}')]
        )
        for key in range(number):
            store.post(f"queued {number}", "approval", b"\xff\x00" * key * 200, f"{key}")
    store.flush()


QUEUED = ("fork of the fork", "queued 0", "queued 1", "queued 2", "queued 3")
"""Those that may be claimed."""
RUNS = ("first", "first/2", "fork/nested", "short 0", "short 3", "nobody", "", "zzz")
QUERIES = (
    LogFilter(),
    LogFilter(limit=3),
    LogFilter(frozenset({"interrupted"})),
    LogFilter(frozenset({"failed"})),
    LogFilter(name="crew"),
    LogFilter(tags={"tenant": "7"}, since=1.0),
)
Picture = dict[str, Any]


def picture(store: SQLiteStore, also: Iterable[str] = ()) -> Picture:
    """All that can be read of a store: the answers, or the class of the error for those that failed."""
    seen: Picture = {"roots": answer(store.roots)}
    for run in RUNS:
        seen[f"root of {run}"] = answer(store.root_of, run)
    roots = seen["roots"] if isinstance(seen["roots"], list) else []
    for root in sorted({*roots, *also}):
        seen[f"info {root}"] = answer(store.info, root)
        seen[f"forks {root}"] = answer(store.forks, root)
        seen[f"messages {root}"] = answer(store.posted, root)
        seen[f"events {root}"] = answer(lambda root=root: list(store.read(root)))
        seen[f"landmarks {root}"] = answer(lambda root=root: list(store.landmarks(root, 5)))
    for query in QUERIES:
        seen[f"found {query}"] = answer(lambda query=query: list(store.find(query)))
    return seen


def answer(question: Callable[..., Any], *args: Any) -> Any:
    try:
        return question(*args)
    except CrewbusError as error:
        return type(error)


def script(source: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``source`` in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(source)],
        env=env or None,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
