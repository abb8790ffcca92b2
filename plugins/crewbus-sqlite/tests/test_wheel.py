"""The distribution: built as a wheel, installed in a fresh environment, found, listed, blocked, and uninstalled."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import venv
from importlib import metadata, util
from pathlib import Path

import pytest

BUILDS = 240.0
"""Seconds that building, installing or running in a process of its own may take; it takes a few."""
PLUGIN = Path(__file__).parents[1]
ROOT = PLUGIN.parents[1]
NEEDED = ("attrs", "cattrs", "pluggy", "typing_extensions")
"""What crewbus needs from elsewhere. Nothing is downloaded: the environment gets the files that are installed here."""


def can_build() -> bool:
    """Whether the setuptools that is installed makes wheels by itself."""
    try:
        return util.find_spec("pip") is not None and int(metadata.version("setuptools").partition(".")[0]) >= 77
    except metadata.PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not can_build(), reason="building a wheel needs pip and setuptools 77 or later")


def run(*command: str | Path, **env: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CREWBUS"))}
    done = subprocess.run(
        list(map(str, command)),
        env={**inherited, **env},
        capture_output=True,
        text=True,
        timeout=BUILDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def pip(*arguments: str | Path, python: Path | str = sys.executable) -> str:
    quiet = ["--disable-pip-version-check", "--no-input"]
    return run(sys.executable, "-m", "pip", *quiet, "--python", python, *arguments)


def wheel_of(source: Path, folder: Path) -> Path:
    """Build the wheel of a copy of ``source``: building writes beside what it builds."""
    copy = folder / "source"
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", ".*", "build", "tests", "plugins", "docs")
    shutil.copytree(source, copy, ignore=ignored)
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder / "dist", copy)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


class Environment:
    """A fresh environment with crewbus's dependencies and nothing else."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        (self.python,) = folder.glob("bin/python") if os.name == "posix" else folder.glob("Scripts/python.exe")
        self.packages = Path(self("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        for name in NEEDED:
            self._copy(metadata.distribution(name))

    def _copy(self, distribution: metadata.Distribution) -> None:
        for file in distribution.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                target = self.packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), target)

    def __call__(self, code: str, **env: str) -> str:
        return run(self.python, "-W", "error", "-c", textwrap.dedent(code), **env)

    def plugins(self) -> dict[str, dict[str, object]]:
        return {info["name"]: info for info in json.loads(run(self.python, "-m", "crewbus", "plugins", "--json"))}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return [wheel_of(source, tmp_path_factory.mktemp(source.name)) for source in (ROOT, PLUGIN)]


@pytest.fixture
def installed(wheels, tmp_path):
    environment = Environment(tmp_path / "environment")
    pip("install", "--no-index", *wheels, python=environment.python)  # with what they need, which is there
    return environment


RECORDED = """
    import crewbus, os, sys
    os.chdir({folder!r})
    with crewbus.Bus(strict=True{options}) as bus, bus.run("writer"):
        bus.chunk("x")
    print(*sorted(os.listdir()), "crewbus_sqlite" in sys.modules)
"""


def test_it_is_found_listed_blocked_and_gone_when_uninstalled(installed, tmp_path):
    info = installed.plugins()["sqlite"]
    assert (info["status"], info["distribution"]) == ("loaded", "crewbus-sqlite")
    assert info["version"] == re.search(r"^version = (.*)$", (PLUGIN / "setup.cfg").read_text(), re.MULTILINE).group(1)
    assert {"crewbus_configure", "crewbus_open_store"} <= set(info["hooks"])

    def recorded(name, options="", **env):
        (tmp_path / name).mkdir()
        return installed(RECORDED.format(folder=str(tmp_path / name), options=options), **env)

    assert recorded("default") == "crewbus.db True\n"
    assert recorded("elsewhere", CREWBUS_STORE="sqlite:///runs.db") == "runs.db True\n"
    assert recorded("off", CREWBUS_RECORD="off") == "True\n"
    assert recorded("blocked", ", blocked=['sqlite']") == "False\n"

    pip("uninstall", "--yes", "crewbus-sqlite", python=installed.python)
    assert "sqlite" not in installed.plugins()
    assert not (installed.packages / "crewbus_sqlite").exists()
    assert recorded("uninstalled") == "False\n"


def test_the_wheel_has_types_and_the_licence_and_no_tests(installed):
    files = {
        str(file)
        for file in metadata.Distribution.discover(name="crewbus-sqlite", path=[str(installed.packages)])
        .__next__()
        .files
    }
    assert "crewbus_sqlite/py.typed" in files
    assert any(name.endswith("LICENSE") for name in files)
    assert not any("test" in name or "benchmark" in name for name in files)
