"""Run a library's own tests, stock and with the plugins, and compare them test by test.

They are those of the installed version, from its sdist on the index. The files of a test that differs are run again,
since some tests race: what differs each time, and is not explained beside its suite, makes the exit code 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from suites import SUITES, Suite

HERE: Final = Path(__file__).parent

TIMES: Final = 2
"""How often a test that differs is run again."""

Outcomes = dict[str, str]
"""What became of each test: "passed", "failed" or "skipped"."""


def main() -> int:
    """Compare, print what differs and how many passed; returns the exit code."""
    asked = asked_for()
    suite: Suite = SUITES[asked.suite]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tests = (asked.sources.resolve() if asked.sources else fetched(suite, folder)) / "tests"
        if not tests.is_dir():
            print(f"The sdist of {suite.distribution} {metadata.version(suite.distribution)} has no tests.")
            return 1
        comparison = Comparison(suite, folder, tests, "recorded" if asked.recorded else "plugins")
        files = [str(tests / name) for name in asked.files or suite.files if (tests / name).exists()]
        if not files:  # pytest would run all tests that there are
            print(f"The sdist of {suite.distribution} has none of these files.")
            return 1
        stock, ours = comparison.outcomes(files, "stock"), comparison.outcomes(files, comparison.mode)
        said = f"{summary(stock)} without the plugins, {summary(ours)} with them"
        print(f"{suite.distribution} {metadata.version(suite.distribution)}: {said}", flush=True)
        for name, (before, after) in differing(stock, ours).items():
            print(f"at first, {name}: {before} without the plugins, {after} with them", flush=True)
        differ = comparison.confirmed(differing(stock, ours))
    for name, (before, after) in differ.items():
        print(f"{name}: {before} without the plugins, {after} with them. {suite.explained.get(name, 'Not explained.')}")
    return 1 if differ.keys() - suite.explained.keys() or not stock else 0


def asked_for() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("files", nargs="*", help="in the folder `tests`; by default those of the suite")
    parser.add_argument("--sources", type=Path, help="the unpacked sdist; by default it is fetched")
    parser.add_argument("--recorded", action="store_true", help="record each run in memory, too")
    return parser.parse_intermixed_args()


def fetched(suite: Suite, folder: Path) -> Path:
    """The unpacked sdist of the installed version."""
    name = suite.distribution
    wanted = f"{name}=={metadata.version(name)}"
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, wanted)
    subprocess.run(pip, cwd=folder, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


@dataclass(frozen=True)
class Comparison:
    """Runs of a suite's tests."""

    suite: Suite
    folder: Path
    tests: Path
    mode: str
    """With the plugins: "plugins", or "recorded"."""

    def outcomes(self, tests: list[str], mode: str) -> Outcomes:
        """Run ``tests`` in a process of their own."""
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "CREWBUS_RECORD": "off",
            "CREWBUS_SUITE": mode,
            "HOME": str(self.folder),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
        }
        options = ("-p", self.suite.around, "-p", "no:cacheprovider", "-q", "--timeout=60", *self.suite.options)
        shape = (f"--junitxml={report}", "-n", "2", "--dist", "loadfile")
        command = (sys.executable, "-m", "pytest", *options, *shape, *tests)
        subprocess.run(command, cwd=self.folder, env=environment, check=False, stdout=subprocess.DEVNULL)
        return read(report)

    def confirmed(self, differ: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
        """Those that differ again each time that their files are run."""
        found = dict(differ)
        for _ in range(TIMES):
            files = sorted({str(file_of(name, self.tests)) for name in found})
            if not files:
                break
            again = differing(self.outcomes(files, "stock"), self.outcomes(files, self.mode))
            found = {name: pair for name, pair in again.items() if name in found}
        return found


def read(report: Path) -> Outcomes:
    """What a report of pytest's says of each test."""
    if not report.exists():
        return {}
    found: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = f"{case.get('classname')}.{case.get('name')}"
        found[name] = "failed" if found.get(name) == "failed" else outcome
    return found


def differing(stock: Outcomes, ours: Outcomes) -> dict[str, tuple[str, str]]:
    """The tests whose outcomes are not the same."""
    names = [*stock, *(name for name in ours if name not in stock)]
    both = {name: (stock.get(name, "missing"), ours.get(name, "missing")) for name in names}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def file_of(name: str, tests: Path) -> Path:
    """The file of a test, by the name that the report has for it."""
    parts = name.partition("[")[0].split(".")
    parts = parts[parts.index("tests") + 1 :] if "tests" in parts else parts
    for length in range(len(parts), 0, -1):
        path = tests.joinpath(*parts[:length]).with_suffix(".py")
        if path.is_file():
            return path
    raise LookupError(name)


def summary(found: Outcomes) -> str:
    """How many tests passed, failed and were skipped."""
    counts = Counter(found.values())
    return f"{counts['passed']} of {len(found)} pass"


if __name__ == "__main__":
    sys.exit(main())
