"""Made ``first-release.db`` and ``first-release.json``, with the first release (0.1.0 of 2026-11-20), and never again.

Usage: ``python make_first_release.py`` where that release is installed. The database holds runs in each state, forks of
forks, and steps under the identities of that release; the JSON holds each event's run, number, parent and type, as that
release read them. `tests/test_first_release.py` compares what later releases read.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import crewbus
from crewbus_sqlite import SQLiteStore

HERE = Path(__file__).parent
STORE = HERE / "first-release.db"
EVENTS = HERE / "first-release.json"


@crewbus.step
def research(topic: str) -> str:
    """A step."""
    crewbus.chunk(f"looking for {topic}. ")
    return f"what is known of {topic}"


@crewbus.step
def fails() -> str:
    """A step that fails."""
    raise ValueError("no")


def writer(*, to: str) -> None:
    """What all runs do, up to some point."""
    bus = crewbus.current_bus()
    research("tides")
    with bus.call("model") as call:
        call.chunk("Tides rise. ")
    with suppress(ValueError):
        fails()
    with bus.run("editor") as run:
        research("moons")
        run.chunk("Moons shine. ")
        if to == "checkpoint":
            crewbus.current_run().root.checkpoint("draft")
            os._exit(0) if os.environ.get("STOP") else None
        run.chunk("They do. ")
        if to == "nested":
            bus.flush()
            os._exit(0)
    if to == "failure":
        raise ValueError("out of ink")
    if to == "cancellation":
        crewbus.current_run().cancel("enough")
        crewbus.current_run().check()


def record(what: str, run_id: str) -> None:
    """Record one run, in a process of its own."""
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(SQLiteStore(STORE))
        with suppress(ValueError, crewbus.Cancelled):
            if what == "fork":
                parent, _, at = run_id.partition("@")
                sys.stdout.write(bus.fork(parent, at=at))
            elif what == "resume":
                with bus.resume(run_id):
                    writer(to="nested")
            else:
                with bus.run("writer", id=run_id, tags={"tenant": "7", "turn": run_id}):
                    writer(to=what)


def run(*arguments: str, stop: bool = False) -> str:
    """Record in another process."""
    environment = {**os.environ, **({"STOP": "1"} if stop else {})}
    return subprocess.run(
        [sys.executable, __file__, *arguments], check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()


def main() -> None:
    """Record all."""
    for what, run_id in {
        "end": "finished", "failure": "failed", "cancellation": "cancelled", "nested": "interrupted",
    }.items():  # fmt: skip
        run(what, run_id)
    run("checkpoint", "saved", stop=True)
    forks = [run("fork", "saved@draft")]
    forks += [run("fork", f"{forks[0]}@draft")]
    run("resume", forks[1])
    forks += [run("fork", f"{forks[1]}@draft")]
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(SQLiteStore(STORE))
        seen = {
            info.id: {
                "state": info.state,
                "parent": info.parent,
                "events": [
                    [envelope.run_id, envelope.seq, envelope.parent, type(envelope.event).__name__]
                    for envelope in bus.record_of(info.id)
                ],
            }
            for info in bus.recorded_runs()
        }
    connection = sqlite3.connect(STORE)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    EVENTS.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2]) if sys.argv[1:] else main()
