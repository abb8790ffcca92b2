"""What an import costs, each in a fresh interpreter; the interpreter's own start is not counted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks._harness import Row, Size, Timed, interleaved, main


def importing(statement: str) -> Timed:
    code = f"import time; start = time.perf_counter_ns(); {statement}; print(time.perf_counter_ns() - start)"

    def timed() -> float:
        child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return float(child.stdout)

    return timed


def rows(size: Size) -> Iterator[Row]:
    candidates = {
        "ours": importing("import crewbus"),
        "bus": importing("import crewbus; crewbus.Bus"),
        "peer": importing("import pluggy, attrs"),
    }
    least = {name: nanoseconds / 1000 for name, nanoseconds in interleaved(candidates, size.repeat(15)).items()}
    yield Row("import crewbus / import pluggy, attrs", least["ours"], least["peer"], 1.3, "µs")
    yield Row("import crewbus; crewbus.Bus / import pluggy, attrs", least["bus"], least["peer"], None, "µs")


if __name__ == "__main__":
    main(rows)
