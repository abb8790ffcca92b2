"""The benchmarks run, and their table has every budget in it. No figure is tested: they are for reading."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PEERS = ("blinker", "pyee")

pytestmark = pytest.mark.skipif(
    not all(find_spec(peer) for peer in PEERS),
    reason=f"the benchmarks' peers are not installed: {', '.join(PEERS)} (dependency group bench)",
)

# The checkout goes last on the path: the crewbus that is installed is the one to measure.
START = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), run_name='__main__')"

LOADS = [
    f"{burst}, {runs} / a Queue each"
    for burst in ("one by one", "in bursts of 10")
    for runs in ("1 run", "10 runs", "100 runs", "1,000 runs")
]
BUDGETS = {
    "benchmarks.emit": {
        "emit to 1 handler, in a run / blinker": 0.45,
        "emit to 1 handler, in a run / pyee": 0.75,
        "the same, with a stream attached / blinker": 0.6,
        "emit to 50 handlers, in a run / a plain loop": 1.5,
        "emit, nobody listening, outside a run / building the event": 1.75,
        "emit to 1 handler, recording armed / emit + one encode": 1.3,
    },
    "benchmarks.calls": {"1 calls of 20 ms with callbacks in each of 32 threads / without": 1.02},
    "benchmarks.stream": {
        **{f"stream, asyncio to asyncio, {load}": 1.25 for load in LOADS},
        **{f"  batches(), {load}": 0.7 for load in LOADS},
        "stream, 4 threads to asyncio, CPU, 20 runs, 50 chunks/s each / call_soon_threadsafe": 0.5,
        "stream, threads to threads / SimpleQueue": 1.6,
    },
    "benchmarks.memory": {
        "growth after 2,000 unrecorded events, resident set": 2 * 2**20,
        "growth after 100 more, tracemalloc": 2 * 2**20,
        "an open run with one stream, tracemalloc": 1500,
    },
    "benchmarks.imports": {"import crewbus / import pluggy, attrs": 1.3},
}
BUDGETS["benchmarks"] = {what: budget for part in BUDGETS.values() for what, budget in part.items()}


def table_of(script: str, file: Path) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, "-c", START, str(ROOT), script, "--quick", "--json", str(file)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout, json.loads(file.read_text())


@pytest.mark.parametrize("script", BUDGETS)
def test_a_script_prints_and_writes_each_budget_that_applies(script: str, tmp_path: Path) -> None:
    printed, written = table_of(script, tmp_path / "table.json")
    rows = written["rows"]
    assert {row["what"]: row["budget"] for row in rows if row["budget"] is not None} == BUDGETS[script]
    for row in rows:
        assert row["what"] in printed
        if row["peer"] is None:
            assert row["ours"] >= 0
            assert row["met"] is (row["ours"] <= row["budget"])
        else:
            assert row["ratio"] > 0
            assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
            assert row["met"] is (row["budget"] and row["ratio"] <= row["budget"])
    assert {"python", *PEERS, "crewbus", "attrs", "pluggy"} <= written["versions"].keys()
    assert all(version in printed for version in written["versions"].values())
