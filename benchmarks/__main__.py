"""All budgets in one table: each script in a process of its own, the tables joined, the curves drawn."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import _plots
from benchmarks._alone import alone
from benchmarks._harness import Size
from benchmarks._table import as_markdown, head, measured, summary

SCRIPTS: Final = (
    "budgets",
    "emit",
    "calls",
    "stream",
    "record",
    "resume",
    "workers",
    "postgres",
    "memory",
    "imports",
    "scaling",
    "scaling_length",
    "scaling_runs",
    "scaling_depth",
    "sustained",
    "traced",
)


def tables(scripts: Sequence[str], size: Size) -> Iterator[dict[str, Any]]:
    """The table of each script, which prints it as it goes."""
    start = time.monotonic()
    for number, script in enumerate(scripts, 1):
        print(f"\n# benchmarks.{script}: {number} of {len(scripts)}, after {passed(start)}", flush=True)
        yield alone(measured, script, size)
    print(f"\nAll of it took {passed(start)}.")


def passed(start: float) -> str:
    """The minutes and seconds since ``start`` (monotonic)."""
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    return f"{minutes}:{seconds:02} min"


def joined(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """One table of several that were measured by the same Python."""
    rows = [row for table in tables for row in table["rows"]]
    curves = [curve for table in tables for curve in table["curves"]]
    return {**tables[0], "rows": rows, "curves": curves}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("build/benchmarks"), help="default: %(default)s"
    )
    parser.add_argument(
        "--only",
        metavar="SCRIPT",
        nargs="+",
        choices=SCRIPTS,
        default=SCRIPTS,
        help=f"some of {', '.join(SCRIPTS)}; default: all",
    )
    parser.add_argument("--quick", action="store_true", help="only try the scripts: the figures mean nothing")
    options = parser.parse_args()
    print(head())
    table = joined(list(tables(options.only, Size(options.quick))))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.json").write_text(json.dumps(table, indent=2) + "\n")
    (options.out / "table.md").write_text(as_markdown(table))
    drawn = _plots.draw(table["curves"], options.out)
    print(f"\n{summary(table['rows'])}\n{options.out}: table.json, table.md, {drawn} pictures")


if __name__ == "__main__":
    main()
