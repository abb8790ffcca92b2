"""Run crewAI's own tests, stock and with the plugins, and compare them test by test.

They are those of the installed version, from its sdist: fetched from the index, or unpacked in the directory that the
first argument names. More arguments name some of the files below. The files of a test that differs are run again, since
some tests race: what differs each time, and is not explained below, makes the exit code 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent

FILES: Final = (
    "crew/test_async_crew.py",
    "events/test_depends.py",
    "events/test_event_context.py",
    "events/test_event_ordering.py",
    "events/test_event_replay.py",
    "events/test_llm_finish_reason_response_id.py",
    "events/test_llm_usage_event.py",
    "events/test_skill_usage_events.py",
    "events/types/test_system_events.py",
    "hooks/test_crew_scoped_hooks.py",
    "memory/test_unified_memory.py",
    "task/test_async_task.py",
    "test_async_human_feedback.py",
    "test_callback.py",
    "test_checkpoint.py",
    "test_context.py",
    "test_crew.py",
    "test_crew_thread_safety.py",
    "test_custom_llm.py",
    "test_event_record.py",
    "test_flow.py",
    "test_flow_ask.py",
    "test_flow_human_input_integration.py",
    "test_flow_persistence.py",
    "test_flow_persistence_factory.py",
    "test_flow_replies.py",
    "test_flow_resumability_regression.py",
    "test_flow_usage_metrics.py",
    "test_human_feedback_decorator.py",
    "test_human_feedback_integration.py",
    "test_stream_frames.py",
    "test_streaming.py",
    "test_streaming_integration.py",
    "test_task.py",
    "test_task_guardrails.py",
    "utilities/events/test_async_event_bus.py",
    "utilities/events/test_crewai_event_bus.py",
    "utilities/events/test_rw_lock.py",
    "utilities/events/test_shutdown.py",
    "utilities/events/test_thread_safety.py",
    "utilities/test_events.py",
)
"""Those that are about crews, flows, tasks, events, streams and checkpoints, in the folder ``tests`` of the sdist."""

EXPLAINED: Final[Mapping[str, str]] = {}
"""Why a test may differ, by its name as it is printed."""

TIMES: Final = 2
"""How often a test that differs is run again."""

Outcomes = dict[str, str]
"""What became of each test: "passed", "failed" or "skipped"."""


def main(where: str = "", *chosen: str) -> int:
    """Compare, print what differs and how many passed; returns the exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tests = (Path(where).resolve() if where else fetched(folder)) / "tests"
        if not tests.is_dir():
            print(f"The sdist of crewAI {metadata.version('crewai')} has no tests.")
            return 1
        files = [str(tests / name) for name in chosen or FILES if (tests / name).is_file()]
        stock, ours = outcomes(files, folder, plugins=False), outcomes(files, folder, plugins=True)
        print(f"{len(files)} files: {summary(stock)} without the plugins, {summary(ours)} with them", flush=True)
        for name, (before, after) in differing(stock, ours).items():
            print(f"at first, {name}: {before} without the plugins, {after} with them", flush=True)
        differ = confirmed(differing(stock, ours), tests, folder)
    for name, (before, after) in differ.items():
        print(f"{name}: {before} without the plugins, {after} with them. {EXPLAINED.get(name, 'Not explained.')}")
    return 1 if differ.keys() - EXPLAINED.keys() or not stock else 0


def fetched(folder: Path) -> Path:
    """The unpacked sdist of the installed version."""
    wanted = f"crewai=={metadata.version('crewai')}"
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "crewai", wanted)
    subprocess.run(pip, cwd=folder, check=True)
    (archive,) = folder.glob("crewai-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def outcomes(tests: list[str], folder: Path, *, plugins: bool) -> Outcomes:
    """Run ``tests`` in a process of their own, with the plugins or without."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "CREWBUS_SUITE": "plugins" if plugins else "stock",
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    }
    options = ("-p", "environment", "-p", "no:cacheprovider", "-q", "--timeout=60", "--block-network")
    shape = ("--import-mode=importlib", f"--junitxml={report}", "-n", "2", "--dist", "loadfile")
    command = (sys.executable, "-m", "pytest", *options, *shape, *tests)
    subprocess.run(command, cwd=folder, env=environment, check=False, stdout=subprocess.DEVNULL)
    return read(report)


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


def confirmed(differ: Mapping[str, tuple[str, str]], tests: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """Those that differ again each time that their files are run."""
    found = dict(differ)
    for _ in range(TIMES):
        files = sorted({str(file_of(name, tests)) for name in found})
        if not files:
            break
        again = differing(outcomes(files, folder, plugins=False), outcomes(files, folder, plugins=True))
        found = {name: pair for name, pair in again.items() if name in found}
    return found


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
    sys.exit(main(*sys.argv[1:]))
