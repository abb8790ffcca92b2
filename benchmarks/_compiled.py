"""What the hot path would cost if mypyc compiled it: a prototype, which is not shipped.

``python -m benchmarks._compiled`` copies crewbus to a temporary folder, makes there the edits that mypyc needs, and
builds the modules of the hot path. Then it measures the budgets that need no disk with the sources and with the build,
which take turns: each turn is a process of its own. It needs mypy, setuptools and a C compiler. With valgrind it counts
the instructions of a chunk as well.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

import crewbus
from benchmarks._harness import installed
from benchmarks._instructions import LOADS, counted

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = Path(crewbus.__file__).parent
MODULES: Final = (
    "events/envelope",
    "scopes/scope",
    "dispatch/lane",
    "dispatch/delivery",
    "dispatch/plan",
    "dispatch/dispatcher",
    "dispatch/callback_delivery",
    "streams/buffer",
    "streams/waker",
    "streams/transcript",
    "streams/stream",
)
"""What is compiled, relative to the package."""
FUTURE: Final = "from __future__ import annotations\n"
MEASURE: Final = (
    "from benchmarks import budgets, emit; from benchmarks._table import main; "
    "main(emit.one_handler, budgets.in_memory)"
)
TURNS: Final = 2


@attrs.frozen
class Edit:
    """What mypyc needs in a module."""

    module: str
    old: str
    new: str
    reason: str


def _inherited(module: str, name: str) -> Edit:
    old = f"class {name}"
    new = f"@mypyc_attr(allow_interpreted_subclasses=True)\n{old}"
    return Edit(module, f"\n{old}:", f"\n{new}:", f"modules that are not compiled inherit from {name}")


_FIELDS: Final = ("event", "run_id", "seq", "parent", "at", "source", "attempt", "replayed")
_INIT: Final = (
    "    def __init__(self, event: Any, run_id: str | None, seq: int, parent: str | None, at: float, "
    "source: Any = None, attempt: int = 1, replayed: bool = False) -> None:\n"
    + "".join(f"        self.{field} = {field}\n" for field in _FIELDS)
)
EDITS: Final = (
    Edit("events/envelope", "@attrs.define(eq=False, weakref_slot=False)\n", "", "it compiles no class of attrs"),
    Edit("events/envelope", "    source: Any = None\n", "    source: Any\n", "a default would be the class's"),
    Edit("events/envelope", "    attempt: int = 1\n", "    attempt: int\n", "a default would be the class's"),
    Edit("events/envelope", "    replayed: bool = False\n", "    replayed: bool\n", "a default would be the class's"),
    Edit("events/envelope", "    @property\n    def id", f"{_INIT}\n    @property\n    def id", "attrs wrote it"),
    Edit("scopes/call", "    name: str\n", "", "an attribute has one type in all classes"),
    Edit("scopes/scope", "    name: str | None\n", "    name: Any\n", "an attribute has one type in all classes"),
    Edit(
        "scopes/run", "    __slots__ = (\n", '    __slots__ = (\n        "__weakref__",\n', "a compiled base has none"
    ),
    Edit("streams/buffer", " " * 24 + "continue\n", " " * 24 + "return self.take(deadline)\n", "no continue in a try"),
    _inherited("scopes/scope", "Scope"),
    _inherited("dispatch/lane", "OrderedLane"),
    _inherited("dispatch/dispatcher", "Dispatcher"),
    _inherited("streams/stream", "Stream"),
)


@attrs.frozen
class Build:
    """The compiled package."""

    folder: Path
    """What to import it from."""
    seconds: float
    """Processor time that building took."""
    size: int
    """Bytes of the compiled modules."""
    lines: int
    """Lines of C."""


def missing() -> str | None:
    """Why nothing can be built here, or None."""
    if not installed("mypyc.build"):
        return "mypy is not installed: python -m pip install mypy setuptools"
    if shutil.which(os.environ.get("CC", "cc")) is None:
        return "there is no C compiler"
    return None


def edited(folder: Path) -> None:
    """Make the edits in a copy of crewbus. Raises `LookupError` where the sources are no longer as an edit has them."""
    for edit in EDITS:
        path = folder / "crewbus" / f"{edit.module}.py"
        source = path.read_text()
        if edit.old not in source:
            raise LookupError(f"{edit.module} has no {edit.old.strip()!r} any more: what does mypyc need there now?")
        if "mypyc_attr" in edit.new and "mypyc_attr" not in source:
            source = source.replace(FUTURE, f"{FUTURE}\nfrom mypy_extensions import mypyc_attr\n", 1)
        path.write_text(source.replace(edit.old, edit.new))


def build(folder: Path) -> Build:
    """Copy crewbus to ``folder`` and compile it there."""
    shutil.copytree(PACKAGE, folder / "crewbus", ignore=shutil.ignore_patterns("__pycache__"))
    edited(folder)
    (folder / "mypy.ini").write_text("[mypy]\nfollow_imports = silent\nignore_missing_imports = True\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    modules = [f"crewbus/{module}.py" for module in MODULES]
    command = [sys.executable, "-m", "mypyc", *modules]
    done = subprocess.run(command, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mypyc could not build it:\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Build(
        folder,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        sum(path.stat().st_size for path in folder.rglob("*.so") if "build" not in path.parts),
        sum(path.read_text().count("\n") for path in (folder / "build").rglob("*.c")),
    )


def _environment(folder: Path) -> dict[str, str]:
    """An environment in which crewbus is imported from ``folder``, and the benchmarks from here."""
    path = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "CREWBUS_RECORD": "off"}


def run(folder: Path, code: str, *arguments: str) -> str:
    """What ``code`` prints with the crewbus of ``folder``, in a process of its own."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=_environment(folder), stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def rows_of(folder: Path, options: list[str]) -> dict[str, dict[str, Any]]:
    """The rows that have a budget, by what they are of."""
    file = folder / "table.json"
    run(folder, MEASURE, "--json", str(file), *options)
    return {row["what"]: row for row in json.loads(file.read_text())["rows"] if row["budget"] is not None}


def lesser(one: Mapping[str, dict[str, Any]], other: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lesser time of each, of ours and of the peer."""
    return {
        what: {**row, **{side: min(row[side], one[what][side]) for side in ("ours", "peer")}}
        for what, row in other.items()
    }


def compared(pure: Mapping[str, dict[str, Any]], compiled: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """The lines of a table."""
    yield "| what | sources, ns | compiled, ns | ratio | peer, ns | sources / peer | compiled / peer | asked |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for what, row in pure.items():
        ours, peer, now = row["ours"], row["peer"], compiled[what]["ours"]
        yield (
            f"| {what} | {ours:,.0f} | {now:,.0f} | {now / ours:.2f} | {peer:,.0f} "
            f"| {ours / peer:.2f} | {now / peer:.2f} | {row['budget']:.2f} |"
        )


def instructions(pure: Path, compiled: Path) -> Iterator[str]:
    """The lines of a table."""
    yield "\n| instructions for each chunk | sources | compiled | ratio |\n|---|--:|--:|--:|"
    for load in LOADS:
        ours, now = (counted(load, folder, _environment(folder)) for folder in (pure, compiled))
        yield f"| {load} | {ours:,.0f} | {now:,.0f} | {now / ours:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks._compiled", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only try it: the figures mean nothing")
    options = parser.parse_args()
    reason = missing()
    if reason is not None:
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as sources:
        built = build(Path(name))
        shutil.copytree(PACKAGE, Path(sources, "crewbus"))
        print(f"{len(MODULES)} modules, {len(EDITS)} edits: {built.lines:,} lines of C, {built.size:,} bytes")
        print(f"built in {built.seconds:.0f} s of processor time", flush=True)
        quick = ["--quick"] if options.quick else []
        pure, compiled = rows_of(Path(sources), quick), rows_of(built.folder, quick)
        for _ in range(0 if options.quick else TURNS - 1):
            pure = lesser(pure, rows_of(Path(sources), quick))
            compiled = lesser(compiled, rows_of(built.folder, quick))
        print(*compared(pure, compiled), sep="\n", flush=True)
        if shutil.which("valgrind") and not options.quick:
            print(*instructions(Path(sources), built.folder), sep="\n")


if __name__ == "__main__":
    main()
