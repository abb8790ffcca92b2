"""What an import costs, each in a fresh interpreter, whose own start is not counted; and what is installed for it.

The first of the repeats, which may compile modules, does not count: the least is shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import crewbus
from benchmarks._harness import Size, Timed, installed, interleaved
from benchmarks._quiet import QUIET
from benchmarks._table import PEERS, Row, main

STATEMENTS: Final = {
    "blinker": "import blinker",
    "pyee": "import pyee",
    "anyio": "import anyio",
    "langchain-core": "from langchain_core.callbacks import dispatch_custom_event",
    "langgraph": "from langgraph.graph import StateGraph",
    "langgraph-checkpoint-sqlite": "from langgraph.checkpoint.sqlite import SqliteSaver",
    "llama-index-instrumentation": "from llama_index_instrumentation import get_dispatcher",
    "llama-index-workflows": "from workflows import Workflow",
    "eventsourcing": "from eventsourcing.application import Application",
    "dbos": "from dbos import DBOS",
    "crewai": "from crewai.events import crewai_event_bus",
}
"""How a program that uses it begins, by the name of the distribution."""
USABLE: Final = "from crewbus import Bus; Bus(entry_points=False)"
"""The same of ours, with the bus made, since `import crewbus` alone loads next to nothing."""


def importing(statement: str) -> Timed:
    """The nanoseconds of a statement at the start of a program."""
    environment = {**os.environ, **QUIET, "PYTHONDONTWRITEBYTECODE": ""}  # compiled modules are kept
    code = f"import time; start = time.perf_counter_ns(); {statement}; print(time.perf_counter_ns() - start)"

    def timed() -> float:
        child = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
        )
        return float(child.stdout.split()[-1])

    return timed


def imports(size: Size) -> Iterator[Row]:
    candidates = {
        "ours": importing("import crewbus"),
        "bus": importing("import crewbus; crewbus.Bus"),
        "peer": importing("import pluggy, attrs"),
    }
    least = interleaved(candidates, size.repeat(15))
    yield _row("import crewbus / import pluggy, attrs", least["ours"], least["peer"], 1.3)
    yield _row("import crewbus; crewbus.Bus / import pluggy, attrs", least["bus"], least["peer"], 2)


def among_peers(size: Size) -> Iterator[Row]:
    peers = {peer: importing(statement) for peer, statement in STATEMENTS.items() if installed(PEERS[peer])}
    least = interleaved({"ours": importing(USABLE), **peers}, size.repeat(5))
    for peer in peers:
        yield _row(f"  importing crewbus and making a bus / importing {peer}", least["ours"], least[peer])


def _row(what: str, ours: float, peer: float, budget: float | None = None) -> Row:
    return Row(what, ours / 1000, peer / 1000, budget, "µs")


def weights() -> Iterator[Row]:
    """The files of a distribution and of all that it requires, compiled ones aside, as they are installed here."""
    for peer, module in PEERS.items():
        if installed(module):
            yield Row(
                f"  installed, with all it requires: crewbus / {peer}", _weight("crewbus"), _weight(peer), unit="kB"
            )


def _weight(name: str) -> float:
    """Kilobytes."""
    paths = [path for each in _required(name) for path in _paths(each)]
    return sum(path.stat().st_size for path in paths if path.suffix != ".pyc" and path.is_file()) / 1000


def _paths(found: Distribution) -> list[Path]:
    if found.name == "crewbus":  # in a checkout its metadata name other files, or none
        return list(Path(crewbus.__file__).parent.rglob("*"))
    return [Path(str(file.locate())) for file in found.files or ()]


def _required(name: str) -> Iterator[Distribution]:
    """The distribution and all that it requires, directly or not; what is not installed is not required here."""
    asked: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    seen = set(asked)
    found: dict[str, Distribution] = {}
    while asked:
        name, extras = asked.pop()
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for text in found[name].requires or ():
            requirement = Requirement(text)
            applies = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}
            )
            next_one = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if applies and next_one not in seen:
                seen.add(next_one)
                asked.append(next_one)
    yield from found.values()


def rows(size: Size) -> Iterator[Row]:
    yield from imports(size)
    yield from among_peers(size)
    yield from weights()


if __name__ == "__main__":
    main(rows)
