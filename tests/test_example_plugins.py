"""The example plugins: short, built as wheels, found by their entry points alone, and as good as they say."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import sys
from pathlib import Path

import attrs
import pytest
from wheels import build_wheel, can_build, install_alone, run

import crewbus

SOURCES = Path(__file__).parents[1] / "examples" / "plugins"
NAMES = ("redactor", "slow-alarm", "jsonl")
DEFAULTS = {"jsonl": ["this store does not tell of lost logs"]}
"""Why a test of the contract is skipped: what the store leaves to the default that every store has."""
RUNS = 300.0
"""Seconds that a process may take; the longest does the tests of the store, its contract among them: some 20."""

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not can_build(), reason="building a wheel needs pip and setuptools 77 or later"),
]
needs_flock = pytest.mark.skipif(os.name != "posix", reason="the store needs flock")


def run_python(*arguments: str | Path, path: tuple[Path, ...] = (), cwd: Path | None = None) -> str:
    """What Python prints that finds, besides crewbus, what is installed in the folders of ``path``."""
    folders = os.pathsep.join(map(str, (*path, Path(crewbus.__file__).parents[1])))
    env = {"PYTHONPATH": folders, "PYTHONSAFEPATH": "1", "CREWBUS_RECORD": "off"}
    return run(sys.executable, *arguments, cwd=cwd, timeout=RUNS, **env).stdout


@attrs.frozen
class Installed:
    """An example plugin that was built as a wheel, and installed in a folder of its own."""

    name: str
    source: Path
    folder: Path

    @property
    def module(self) -> str:
        return f"crewbus_{self.name.replace('-', '_')}"


@pytest.fixture(scope="module")
def install(tmp_path_factory):
    """Builds and installs an example plugin of a name, when it is first asked for."""

    @functools.cache
    def installed(name: str) -> Installed:
        folder, source = tmp_path_factory.mktemp(name), SOURCES / f"crewbus-{name}"
        return Installed(name, source, install_alone(build_wheel(source, folder), folder / "installed"))

    return installed


@pytest.fixture(params=[pytest.param(n, marks=needs_flock if n == "jsonl" else ()) for n in NAMES])
def plugin(request, install):
    return install(request.param)


def test_it_is_short(plugin):
    """All of it, so that it can be read in a minute and copied."""
    assert len((plugin.folder / f"{plugin.module}.py").read_text("utf-8").splitlines()) < 65


def test_the_command_lists_it(plugin):
    name = plugin.name.replace("-", "_")
    listed = json.loads(run_python("-m", "crewbus", "plugins", "--json", path=(plugin.folder,)))
    (info,) = [info for info in listed if info["name"] == name]
    assert (info["status"], info["distribution"], info["version"]) == ("loaded", f"crewbus-{plugin.name}", "0.1.0")
    assert f"crewbus-{plugin.name} 0.1.0" in run_python("-m", "crewbus", "plugins", path=(plugin.folder,))


def test_its_readme(plugin):
    """Each example is run where nothing but the plugin is installed."""
    code = """
import sys
from crewbus.testing import examples
found = examples(sys.argv[1])
for example in found:
    example.check()
print(len(found), all(example.output for example in found))
"""
    printed = run_python("-W", "error", "-c", code, plugin.source / "README.md", path=(plugin.folder,))
    assert printed.splitlines()[-1] in ("1 True", "2 True")


def test_its_own_tests(plugin, tmp_path):
    """They are run beside the wheel, not beside the source; the store's whole contract is among them."""
    shutil.copytree(plugin.source / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    # The fixtures by their module, since the crewbus that is tested need not be an installed one.
    fixtures = ["-p", "no:crewbus", "-p", "crewbus.testing.fixtures", "-p", "no:cacheprovider"]
    printed = run_python("-m", "pytest", "-q", "-rs", *fixtures, "tests", path=(plugin.folder,), cwd=tmp_path)
    assert " passed" in printed
    skipped = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", printed, re.MULTILINE)
    assert skipped == DEFAULTS.get(plugin.name, [])


@needs_flock
def test_no_secret_gets_into_a_file(install, tmp_path):
    """Two of them together: the bytes of a record do not hold what the redactor hid."""
    folders = tuple(install(name).folder for name in ("redactor", "jsonl"))
    code = """
import crewbus

SECRET = "sk-proj-0123456789abcdef"

@crewbus.step
def look_up():
    return [SECRET]

with crewbus.Bus(strict=True) as bus:
    bus.enable_recording("jsonl:///records.jsonl", content=True)
    try:
        with bus.run("agent", tags={"key": SECRET}):
            crewbus.chunk(f"the key is {SECRET}")
            with bus.call("model") as call:
                call.finish(output={"key": SECRET})
            look_up()
            raise LookupError(SECRET)
    except LookupError:
        pass
"""
    run_python("-W", "error", "-c", code, path=folders, cwd=tmp_path)
    written = (tmp_path / "records.jsonl").read_text("utf-8")
    assert "sk-proj" not in written
    hidden = [json.loads(line)["event"]["name"] for line in written.splitlines() if "[redacted]" in line]
    assert hidden == [
        f"crewbus.{event}" for event in ("RunStarted", "Chunk", "CallFinished", "StepFinished", "RunFailed")
    ]
