"""Makes the golden exports of a release: run it once for each version of the format, and never again.

Usage: ``python make.py export-N``. Each file is the record of one run, as ``crewbus export RUN --jsonl`` writes it;
`tests/test_golden_exports.py` says how every release reads them. The types are defined in this file only.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

import crewbus
from crewbus.records.export import write_export

DAY = dt.date(2026, 11, 20)


@crewbus.event(name="golden.Asked", version=2)
class Asked:
    question: str
    options: dict[str, list[int]] = attrs.field(factory=dict)


@attrs.define
class Crew:
    topics: list[str] = attrs.field(factory=list)


crewbus.register_entity(Crew, name="golden.Crew", version=3)


def work(run: crewbus.Run, crew: Crew) -> list[Any]:
    """Something of everything that is recorded."""
    run.emit(Asked("größer 🦀\0?", {"a": [1, -2]}), source=crew)
    run.chunk("so: ", "reasoning")
    results = [run.step("plain", lambda: {"a": [1, None, 1.5, True, "ü"]})]
    run.checkpoint("first")
    for key in ("x", "y"):
        results.append(run.step("each", lambda key=key: run.chunk(key) and key * 2, key=key))
    results.append(run.step("crew", lambda: Crew(["a"])))
    results.append(run.step("told by its arguments", look, "größer", limits={"b": {2.5}, "a": (1, None, DAY)}))
    with run.bus.run("inner", id=f"{run.id}-inner") as inner, run.bus.call("model") as call:
        call.chunk("said. ")
        results.append(inner.step("deep", lambda: [[]]))
        call.finish(output="said. ", usage={"output_tokens": 2}, cost=0.25)
    with suppress(ZeroDivisionError):
        run.step("fails", lambda: run.chunk("lost") and 1 // 0)
    with run.attempt():
        run.chunk("attempted. ")
    crew.topics.append("b")
    run.checkpoint("second")
    results.append(asyncio.run(run.step("async", nap)))
    return results


def look(query: str, limits: dict[str, Any]) -> str:
    return query * len(limits)


async def nap() -> str:
    return "rested"


def record(bus: crewbus.Bus) -> None:
    """Record what the golden files hold: a run that finished, one that failed, one that was resumed, and a fork."""
    with bus.run("newsroom", id="finished", tags={"tenant": "a"}) as run:
        work(run, Crew())
    for run_id in ("failed", "resumed"):
        with suppress(RuntimeError), bus.run("newsroom", id=run_id) as run:
            run.step("plain", lambda: 1)
            run.chunk("beyond")
            raise RuntimeError("oh no")
    with bus.resume("resumed") as run:
        run.step("plain", lambda: None)
        run.chunk("anew")
        run.step("more", lambda: 2)


def export(bus: crewbus.Bus, folder: Path) -> None:
    """Write the files."""
    fork = bus.fork("finished", at="first", edits={"plain": "edited"})
    for run_id in ("finished", "failed", "resumed", fork):
        with (folder / f"{'forked' if run_id == fork else run_id}.jsonl").open("w", encoding="utf-8") as out:
            write_export(out, bus.store, run_id, {"name": "newsroom"})


if __name__ == "__main__":
    folder = Path(__file__).with_name(sys.argv[1])
    folder.mkdir()  # it is there already: it stays as it is
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording("memory:")
        record(bus)
        export(bus, folder)
