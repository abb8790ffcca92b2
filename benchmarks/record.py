"""What it costs to have events on disk: against raw sqlite3, LangGraph's SqliteSaver, eventsourcing and DBOS.

All write to files in the temporary folder; set TMPDIR to a folder on the disk to be measured.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import attrs
import cattrs.preconf.json

import crewbus
from benchmarks._harness import Size, TaskFinished, Timed, emitting, installed, interleaved, per_call
from benchmarks._recorded import recorded_bus
from benchmarks._table import Row, main
from crewbus import Bus

Loop = Callable[[int], None]

INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?)"
COMMITS: Final = "a commit each, fsync, WAL"
SAVER: Final = "LangGraph SqliteSaver, put + put_writes each"
DBOS: Final = "a step of DBOS"


# Ours


@crewbus.register_entity
@attrs.define(eq=False)
class Conversation:
    messages: list[dict[str, str]] = attrs.field(factory=list)


@crewbus.step
def work(number: int) -> int:
    return number


def emitted(bus: Bus, n: int) -> Timed:
    """From the first emission of ``n`` in a run until all are on disk, in nanoseconds each."""
    loop = emitting(bus)

    def written(n: int) -> None:
        loop(n)
        bus.flush()

    timed = per_call(written, n)

    def in_run() -> float:
        with bus.run():
            return timed()

    return in_run


def stepped(bus: Bus) -> Loop:
    """A run of so many steps, each of which is on disk when it returns, and so is the run."""

    def loop(n: int) -> None:
        with bus.run():
            for number in range(n):
                work(number)
        bus.flush()

    return loop


# Raw sqlite3: the event is built and made JSON, and is all that is written


@contextmanager
def table(path: Path, journal: str, synchronous: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, run_id TEXT, at REAL, name TEXT, data BLOB)")
        yield connection


def inserting(connection: sqlite3.Connection) -> Loop:
    unstructure = cattrs.preconf.json.make_converter().get_unstructure_hook(TaskFinished)
    dump = json.JSONEncoder(separators=(",", ":")).encode

    def loop(n: int) -> None:
        for _ in range(n):
            data = dump(unstructure(TaskFinished("research", "done"))).encode()
            connection.execute(INSERT, (None, "0199f3f2a1b2c3d4e5f6", time.time(), "benchmarks.TaskFinished", data))

    return loop


def together(connection: sqlite3.Connection) -> Loop:
    """All in one transaction."""
    insert = inserting(connection)

    def loop(n: int) -> None:
        connection.execute("BEGIN")
        insert(n)
        connection.execute("COMMIT")

    return loop


# What is measured


def unsynced(size: Size, folder: Path) -> Iterator[Row]:
    """Against those for whom written is what the operating system has: a machine that stops may lose that."""
    n, repeat = size.n(10_000, 100), size.repeat(7)
    with ExitStack() as stack:
        wal = stack.enter_context(table(folder / "wal.db", "WAL", "OFF"))
        rollback = stack.enter_context(table(folder / "rollback.db", "DELETE", "OFF"))
        one = stack.enter_context(table(folder / "one.db", "WAL", "FULL"))
        candidates = {
            "ours": emitted(stack.enter_context(recorded_bus(folder / "events.db")), n),
            "wal": per_call(inserting(wal), n),
            "rollback": per_call(inserting(rollback), size.n(2000)),
            "one": per_call(together(one), n),
        }
        least = interleaved(candidates, repeat)
    what = f"durable record (SQLite, fsync at each commit), {n:,} events"
    yield _row(f"{what} / a commit each, no fsync, WAL", least["ours"], least["wal"], 0.6)
    yield _row("  / a commit each, no fsync, rollback journal", least["ours"], least["rollback"])
    yield _row("  / all in one transaction, fsync", least["ours"], least["one"])


def synced(size: Size, folder: Path) -> Iterator[Row]:
    """Against those that have each event on disk before the next: ours as it is by default, and as strict as they."""
    n, few, repeat = size.n(10_000, 100), size.n(100, 5), size.repeat(7)
    with ExitStack() as stack:
        raw = stack.enter_context(table(folder / "synced.db", "WAL", "FULL"))
        candidates = {
            "ours": emitted(stack.enter_context(recorded_bus(folder / "async.db")), n),
            "sync": emitted(stack.enter_context(recorded_bus(folder / "sync.db", "sync")), few),
            COMMITS: per_call(inserting(raw), few),
        }
        if installed("langgraph.checkpoint.sqlite"):
            from benchmarks import _peer_langgraph_sqlite

            loop = stack.enter_context(_peer_langgraph_sqlite.recording(folder / "langgraph.db"))
            candidates[SAVER] = per_call(loop, few)
        if installed("eventsourcing"):
            from benchmarks import _peer_eventsourcing

            loop = stack.enter_context(_peer_eventsourcing.recording(folder / "eventsourcing.db"))
            candidates["eventsourcing, an aggregate saved after each"] = per_call(loop, few)
        least = interleaved(candidates, repeat)
    ours, sync = least.pop("ours"), least.pop("sync")
    for peer, cost in least.items():
        yield _row(f"durable record, {n:,} events / {peer}", ours, cost, 1 / 40 if peer == SAVER else None)
        yield _row(f'  with durability="sync" / {peer}', sync, cost)


def steps(size: Size, folder: Path) -> Iterator[Row]:
    """A step's result is on disk before it is returned: what a commit does, and what a step of DBOS promises too."""
    few, repeat = size.n(100, 5), size.repeat(7)
    with ExitStack() as stack:
        bus = stack.enter_context(recorded_bus(folder / "steps.db"))
        raw = stack.enter_context(table(folder / "stepped.db", "WAL", "FULL"))
        candidates = {"ours": per_call(stepped(bus), few), COMMITS: per_call(inserting(raw), few)}
        if has_dbos():
            from benchmarks import _peer_dbos

            candidates["events"] = emitted(bus, size.n(10_000, 100))
            loop = stack.enter_context(_peer_dbos.stepping(folder / "dbos.db"))
            candidates[DBOS] = per_call(loop, few)
        least = interleaved(candidates, repeat)
    yield _row(f"a step of a run of {few} / {COMMITS}", least["ours"], least[COMMITS])
    if DBOS in least:
        yield _row(f"a step of a run of {few} / {DBOS}", least["ours"], least[DBOS])
        yield _row(f"  an event, durable record / {DBOS}", least["events"], least[DBOS])


def turns(size: Size, folder: Path) -> Iterator[Row]:
    """A checkpoint a turn of a conversation that grows: what it records, against what the turn adds."""
    n, message = size.n(1000, 20), {"role": "user", "text": "a few words " * 10}
    with recorded_bus(folder / "turns.db") as bus:
        with bus.run() as run:
            conversation = run.track("conversation", Conversation())
            for _ in range(n):
                conversation.messages.append(dict(message))
                run.checkpoint("turn")
        events = (stored for stored in bus.record_of(run.id).stored() if stored.name == "crewbus.EntitySaved")
        recorded = sum(len(stored.data) for stored in events)
    added = len(json.dumps(message, separators=(",", ":")))
    yield Row(f"a checkpoint a turn, {n:,} turns, recorded / added", recorded / n, added, 6, "B")


def has_dbos() -> bool:
    if not installed("dbos"):
        return False
    from benchmarks import _peer_dbos

    return _peer_dbos.usable()


def _row(what: str, ours: float, peer: float, budget: float | None = None) -> Row:
    return Row(what, ours / 1000, peer / 1000, budget, "µs")


def rows(size: Size) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for part in (unsynced, synced, steps, turns):
            yield from part(size, Path(folder))


if __name__ == "__main__":
    main(rows)
