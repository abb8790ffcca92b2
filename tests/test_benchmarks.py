"""The benchmarks run, and their table has every budget in it. No figure is tested: they are for reading."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers import BESIDE

ROOT = Path(__file__).parents[1]
PATHS = (ROOT, BESIDE)
PEERS = ("blinker", "pyee")

pytestmark = pytest.mark.skipif(
    not all(find_spec(peer) for peer in PEERS),
    reason=f"the benchmarks' peers are not installed: {', '.join(PEERS)} (dependency group bench)",
)

# The checkout goes last on the path: the crewbus that is installed is the one to measure.
START = (
    "import runpy, sys; count = int(sys.argv.pop(1)); sys.path += [sys.argv.pop(1) for _ in range(count)]; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)

LOADS = {
    f"stream, asyncio to asyncio, one by one, {runs} / a Queue each": budget
    for runs, budget in (("1 run", 1.25), ("100 runs", 1.25), ("1,000 runs", 1.4))
}
BOUNDED = "stream, threads to threads, with the default bound of 1,024 / Queue(1024)"
IN_CALL = "a chunk in a call with one callback, streamed / without the call"
ARMED = "emit to 1 handler, recording armed / emit + one encode"
DURABLE = "durable record (SQLite, fsync at each commit), 100 events / a commit each, no fsync, WAL"
MB = 2**20
BUDGETS: dict[str, dict[str, float]] = {
    "benchmarks.budgets": {
        "sustained, 10 agents at 20 chunks/s, CPU per chunk, recorded / unrecorded": 1.35,
        "sustained, 10 agents at 20 chunks/s, CPU per chunk / a raw asyncio.Queue each": 1.2,
        "  the same from four threads / call_soon_threadsafe per chunk": 0.7,
        "  recorded: from emission to consumer, p99": 50_000,
        "  recorded: from emission to disk, p99": 250_000,
        "bytes on disk per chunk of 5 characters at 50 chunks/s": 30,
        "rows per chunk at 50 chunks/s": 0.1,
        DURABLE: 0.6,
        IN_CALL: 1.6,
        **LOADS,
        BOUNDED: 0.7,
        ARMED: 1.3,
        **(
            {"a run with one stream, recorded, from start to end / a workflow of DBOS without steps": 0.3}
            if find_spec("dbos")
            else {}
        ),
    },
    "benchmarks.emit": {
        "emit to 1 handler, in a run / blinker": 0.45,
        "emit to 1 handler, in a run / pyee": 0.75,
        "the same, with a stream attached / blinker": 0.6,
        "emit to 50 handlers, in a run / a plain loop": 1.5,
        "emit, nobody listening, outside a run / building the event": 1.75,
        ARMED: 1.3,
    },
    "benchmarks.calls": {
        "1 calls of 20 ms with callbacks in each of 32 threads / without": 1.02,
        IN_CALL: 1.6,
        "a chunk in an attempt, streamed / without the attempt": 1.4,
    },
    "benchmarks.stream": {
        **LOADS,
        "stream, 4 threads to asyncio, CPU, 20 runs, 50 chunks/s each / call_soon_threadsafe": 0.7,
        BOUNDED: 0.7,
    },
    "benchmarks.record": {
        DURABLE: 0.6,
        "a checkpoint a turn, 20 turns, recorded / added": 6,
        **(
            {"durable record, 100 events / LangGraph SqliteSaver, put + put_writes each": 1 / 40}
            if find_spec("langgraph")
            else {}
        ),
    },
    "benchmarks.resume": {
        "a checkpoint at 200 events / at 20, SQLite": 1.5,
        "a checkpoint at 200 events / at 20, in memory": 1.5,
        "resume at a checkpoint, 300 events, 100 steps, until the first is asked for, SQLite": 1000,
        "resume at a checkpoint, 300 events, 100 steps, until the first is asked for, in memory": 1000,
        "a step that is recalled / carried out, in memory": 1.0,
        "fork of a 300-event run / copying its rows": 0.02,
    },
    "benchmarks.workers": {
        **(
            {
                f"{what} / DBOS": 1.0
                for what in (
                    "queue a run",
                    "1 worker process, 4 queued runs: from claim to first step, a run",
                    "  1 worker process, 4 queued runs: a workflow of 10 steps",
                )
            }
            if find_spec("dbos")
            else {}
        ),
        "an idle worker, processor time a second": 5,
        "  queries a second": 5,
        "  from queueing a run to its first step, p50": 100,
    },
    "benchmarks.memory": {
        "growth after 2,000 unrecorded events, resident set": 2 * MB,
        "growth after 100 more, tracemalloc": 2 * MB,
        "growth after 2,000 events recorded to SQLite and flushed, resident set": 2 * MB,
        "an open run with one stream, tracemalloc": 1500,
    },
    "benchmarks.imports": {
        "import crewbus / import pluggy, attrs": 1.3,
        "import crewbus; crewbus.Bus / import pluggy, attrs": 2,
    },
}
"""What DESIGN.md allows, each by its row."""
if find_spec("opentelemetry"):
    BUDGETS["benchmarks.traced"] = {
        "a run of 10 calls of 20 ms with 100 chunks each, traced / untraced": 1.15,
        "  with the plugin, and no provider / without": 1.02,
        "    with the plugin, and no provider / without": 1.02,
    }

MORE = tuple(
    f"benchmarks.{each}" for each in ("scaling", "scaling_length", "scaling_runs", "scaling_depth", "sustained")
)
"""Scripts whose rows show how a cost grows, or how long it lasts: their limits are their own."""


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the benchmarks."""
    # Last, so that the crewbus that is installed comes first.
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    return lambda name: import_module(f"benchmarks.{name}")


def table_of(script: str, file: Path, *options: str) -> tuple[str, dict[str, Any]]:
    printed = printed_by(script, "--quick", *options, str(file))
    return printed, json.loads((file if file.suffix else file / "table.json").read_text())


def printed_by(script: str, *options: str, timeout: float = 300) -> str:
    command = [sys.executable, "-c", START, str(len(PATHS)), *map(str, PATHS), script, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True).stdout


def assert_is_a_table(printed: str, written: dict[str, Any]) -> None:
    assert written["rows"]
    for row in written["rows"]:
        assert row["what"] in printed
        if row["peer"] is None:
            assert row["ours"] >= 0
            assert row["met"] is (None if row["budget"] is None else row["ours"] <= row["budget"])
        else:
            assert row["ratio"] > 0
            assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
            assert row["met"] is (None if row["budget"] is None else row["ratio"] <= row["budget"])
    for curve in written["curves"]:
        assert len(curve["series"]["ours"]) >= 2
    assert {"python", "sqlite", *PEERS, "crewbus", "attrs", "pluggy"} <= written["versions"].keys()
    assert all(version in printed for version in written["versions"].values())


def budgets_in(written: dict[str, Any]) -> dict[str, float]:
    return {row["what"]: row["budget"] for row in written["rows"] if row["budget"] is not None}


@pytest.mark.parametrize("script", BUDGETS)
def test_a_script_prints_and_writes_each_budget_that_applies(script: str, tmp_path: Path) -> None:
    printed, written = table_of(script, tmp_path / "table.json", "--json")
    assert_is_a_table(printed, written)
    assert budgets_in(written) == pytest.approx(BUDGETS[script])


@pytest.mark.parametrize("script", MORE)
def test_a_script_prints_and_writes_how_a_cost_grows(script: str, tmp_path: Path) -> None:
    printed, written = table_of(script, tmp_path / "table.json", "--json")
    assert_is_a_table(printed, written)
    assert written["curves"]


def test_one_command_runs_all_of_them(tmp_path: Path) -> None:
    """It joins their tables, for people and for programs."""
    chosen = ["emit", "scaling"]
    printed, written = table_of("benchmarks", tmp_path / "out", "--only", *chosen, "--out")
    assert_is_a_table(printed, written)
    assert [line.split(",")[0] for line in printed.splitlines() if line.startswith("# ")] == [
        "# benchmarks.emit: 1 of 2",
        "# benchmarks.scaling: 2 of 2",
    ]
    assert budgets_in(written).items() >= BUDGETS["benchmarks.emit"].items()
    text = (tmp_path / "out" / "table.md").read_text()
    assert all(f"| {row['what']} |" in text for row in written["rows"])


def test_every_script_is_run() -> None:
    help_text = printed_by("benchmarks", "--help")
    scripts = [path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")]
    assert {f"benchmarks.{script}" for script in scripts} == {
        *BUDGETS,
        *MORE,
        "benchmarks.traced",
        "benchmarks.postgres",
    }
    assert all(script in help_text for script in scripts)


def test_the_runner_finds_the_rows_of_each_script() -> None:
    """One that has none would end the runner, and what it has measured before would be lost."""
    code = (
        f"import sys; sys.path += {[*map(str, PATHS)]}\n"
        "from importlib import import_module\nfrom benchmarks.__main__ import SCRIPTS\n"
        "print([each for each in SCRIPTS if not callable(getattr(import_module(f'benchmarks.{each}'), 'rows', None))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert found.stdout.split() == ["[]"]


def test_a_script_that_there_is_not_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        printed_by("benchmarks", "--only", "nothing")
    assert "invalid choice: 'nothing'" in refused.value.stderr


@pytest.mark.slow
def test_the_prototype_that_is_compiled_is_measured_beside_the_sources(benchmark_module: Callable[[str], Any]) -> None:
    reason = benchmark_module("_compiled").missing()
    if reason is not None:
        pytest.skip(reason)
    first, built, *table = printed_by("benchmarks._compiled", "--quick", timeout=900).splitlines()
    assert "lines of C" in first
    assert built.startswith("built in ")
    measured = [line.split(" | ")[0].removeprefix("| ") for line in table[2:]]
    assert {IN_CALL, BOUNDED, ARMED, *LOADS} <= set(measured)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("py-spy") is None, reason="py-spy is not installed")
def test_a_profile_names_the_functions_with_most_of_the_time() -> None:
    printed = printed_by("benchmarks._profile", "--seconds", "3", "--only", "in a call")
    assert "# in a call" in printed
    assert "`OrderedLane.commit (dispatch/lane.py)`" in printed


def test_a_peer_that_is_missing_is_a_line_that_says_how_to_get_it(
    benchmark_module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = benchmark_module("_table")

    def version(name: str) -> str:
        if name in ("dbos", "langgraph"):
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(table, "version", version)
    known, *missing = table.head().splitlines()
    assert "dbos not installed" in known
    assert [line.split()[0] for line in missing] == ["langgraph", "dbos"]
    assert all(line.endswith(f"python -m pip install {line.split()[0]}") for line in missing)


def test_a_measurement_that_takes_long_is_repeated_less(
    benchmark_module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the runner ends in its time on a busy machine too."""
    harness = benchmark_module("_harness")
    clock = [0.0]
    monkeypatch.setattr(harness.time, "monotonic", lambda: clock[0])

    def turns(seconds: float) -> int:
        taken = list[float]()

        def candidate() -> float:
            clock[0] += seconds
            taken.append(1.0)
            return 1.0

        assert harness.interleaved({"one": candidate}, 40) == {"one": 1.0}
        return len(taken)

    assert turns(0.001) == 40
    assert turns(100.0) == harness.FEWEST
    assert turns(harness.PATIENCE / 7.5) == 8
