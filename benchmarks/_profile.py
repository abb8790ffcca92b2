"""Where the time of a load goes that misses its budget: the functions with most of it, with their shares.

``python -m benchmarks._profile`` needs py-spy, which looks 200 times a second which function runs in the thread that
has the interpreter. *Own* is the share of the looks that found the function itself running, with what it called in C;
*with callees* the share of those that found it anywhere on the stack. Waiting is not counted, nor C code that gives up
the interpreter, as SQLite's commits do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import _agents, _agents_threads, calls
from benchmarks._harness import TaskFinished, emitting, handler
from benchmarks._recorded import recorded_bus
from benchmarks._together import concurrent
from benchmarks.budgets import run_each
from benchmarks.stream import frames
from crewbus import Bus

RATE: Final = 200
MOST: Final = 12
"""How many functions are shown."""
CROWD: Final = _agents.Crowd(1000, 20, 2.0)

Load = Callable[[], object]


def in_a_call() -> None:
    n = 5000
    with Bus(entry_points=False) as bus, bus.run() as run, bus.subscribe(run.id, bound=4 * n) as stream:
        for _ in range(20):
            calls.streaming(bus, stream, n, lambda: bus.call("gpt", callbacks=[handler]))()


def one_by_one(runs: int) -> None:
    with Bus(entry_points=False) as bus:
        concurrent(frames(bus), runs, 20_000 // runs, 1)()


def between_threads() -> None:
    def produce() -> None:
        for _ in range(50_000):
            bus.chunk("Hello")

    with Bus(entry_points=False) as bus, bus.stream(produce) as stream:
        for _ in stream:
            pass


def armed() -> None:
    with Bus(entry_points=False) as bus:
        bus.on(TaskFinished, handler)
        for _ in range(10):
            with bus.run(record=True):
                emitting(bus)(2000)
            bus.reset_recording()


def events() -> None:
    with tempfile.TemporaryDirectory() as folder, recorded_bus(Path(folder, "events.db")) as bus, bus.run():
        for _ in range(5):
            emitting(bus)(10_000)
            bus.flush()


def whole_runs() -> None:
    with tempfile.TemporaryDirectory() as folder, recorded_bus(Path(folder, "runs.db")) as bus:
        run_each(bus, 300)


LOADS: Final[Mapping[str, Load]] = {
    "recorded": partial(_agents.recorded, CROWD),
    "unrecorded": partial(_agents.streamed, CROWD),
    "four threads": partial(_agents_threads.streamed_from_threads, CROWD),
    "in a call": in_a_call,
    "one by one": partial(one_by_one, 1),
    "one by one, 1,000 runs": partial(one_by_one, 1000),
    "threads to threads": between_threads,
    "armed": armed,
    "10,000 events": events,
    "whole runs": whole_runs,
}


def stacks(load: str, seconds: float) -> Iterator[tuple[list[str], int]]:
    """Each stack that was found, outermost function first, with how often."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "stacks")
        spy = ["py-spy", "record", "--gil", "--rate", str(RATE), "--format", "raw", "--output", str(file), "--"]
        command = [sys.executable, "-m", "benchmarks._profile", "--load", load, "--seconds", str(seconds)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([*spy, *command], env=environment, check=True, capture_output=True)
        for line in file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            if names := [_named(frame) for frame in stack.split(";") if frame]:
                yield names, int(count)


def _named(frame: str) -> str:
    """``function (folder/file.py:line)`` as the function and the last two parts of the path, without the line."""
    function, _, place = frame.partition(" (")
    return f"{function} ({'/'.join(place.rstrip(')').rpartition(':')[0].split('/')[-2:])})"


def shares(found: Iterable[tuple[list[str], int]]) -> Iterator[str]:
    """The lines of a table."""
    own, within, total = Counter[str](), Counter[str](), 0
    for stack, count in found:
        if any(frame.startswith("_find_and_load ") for frame in stack):
            continue  # what is imported
        total += count
        own[stack[-1]] += count
        for function in set(stack):
            within[function] += count
    yield f"| function, of {total:,} looks | own | with callees |"
    yield "|---|--:|--:|"
    for function, count in own.most_common(MOST):
        yield f"| `{function}` | {count / total:.0%} | {within[function] / total:.0%} |"
    parts = Counter[str]()
    for function, count in own.items():
        parts[_part(function)] += count
    yield "\n" + ", ".join(f"{part} {count / total:.0%}" for part, count in parts.most_common(MOST))


def _part(function: str) -> str:
    """The folder of a function's module; what attrs has generated counts as attrs."""
    place = function.partition(" (")[2]
    return "attrs" if place.startswith("<attrs") else place.partition("/")[0].rstrip(")")


def repeated(load: Load, seconds: float) -> None:
    """Carry out a load until so many seconds have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        load()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks._profile", description=__doc__)
    parser.add_argument("--only", metavar="LOAD", nargs="+", choices=LOADS, default=LOADS, help=", ".join(LOADS))
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each load goes on; default: %(default)s")
    parser.add_argument("--load", choices=LOADS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load is not None:
        repeated(LOADS[options.load], options.seconds)
        return
    for name in options.only:
        print(f"\n# {name}\n", *shares(stacks(name, options.seconds)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
