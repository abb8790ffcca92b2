"""What the tests of distributions share: building a wheel, installing it, trying it, all without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import venv
from collections.abc import Collection
from importlib import metadata, util
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BUILDS = 240.0
"""Seconds that building, installing or running in a process of its own may take; it takes a few."""
CORE = ("attrs", "cattrs", "packaging", "pluggy", "typing_extensions")
"""What crewbus needs from elsewhere."""


def with_dependencies(*names: str) -> set[str]:
    """These distributions, which are installed, and those that they need, without extras."""
    found: set[str] = set()
    left = [*names]
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found.add(name)
            needs = map(Requirement, metadata.requires(name) or ())
            left += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def can_build(*needed: str) -> bool:
    """Whether the setuptools that is installed makes wheels by itself, and these distributions are there too."""
    try:
        return (
            util.find_spec("pip") is not None
            and int(metadata.version("setuptools").partition(".")[0]) >= 77
            and all(metadata.version(name) for name in needed)
        )
    except metadata.PackageNotFoundError:
        return False


def run(
    *command: str | Path,
    cwd: Path | None = None,
    timeout: float = BUILDS,
    codes: Collection[int] = (0,),
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command, untouched by how these tests are run; ``env``: the variables that it gets besides."""
    ours = ("PYTHON", "CREWBUS", "PYTEST")
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if not name.startswith(ours)} | env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode in codes, done.stdout + done.stderr
    return done


def pip(*arguments: str | Path, python: Path | str = sys.executable) -> None:
    """Call pip, for the environment of ``python``."""
    quiet = ["--disable-pip-version-check", "--no-input"]
    run(sys.executable, "-m", "pip", *quiet, "--python", python, *arguments)


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a copy of ``source``, since building writes beside what it builds; all is in ``folder``."""
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", ".*", "build")
    elsewhere = {"tests", "plugins", "docs", "examples"}
    shutil.copytree(
        source,
        copy := folder / "copy",
        ignore=lambda path, names: ignored(path, names) | (elsewhere if Path(path) == Path(source) else set()),
    )
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder / "dist", copy)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def wheels_of(plugin: Path, folder: Path) -> list[Path]:
    """Build crewbus and the plugin distribution in the folder ``plugin``."""
    core = plugin.parents[1]
    (folder / "core").mkdir()
    (folder / "plugin").mkdir()
    return [build_wheel(core, folder / "core"), build_wheel(plugin, folder / "plugin")]


def install_alone(wheel: Path, folder: Path) -> Path:
    """Install a wheel, and nothing that it needs, in a folder of its own; returns the folder."""
    pip("install", "--no-index", "--no-deps", "--no-compile", "--target", folder, wheel)
    return folder


class Environment:
    """A fresh environment with these distributions and nothing else.

    Nothing is downloaded: it gets the files that are installed here.
    """

    def __init__(self, folder: Path, *needed: str) -> None:
        venv.create(folder, with_pip=False)
        (self.python,) = folder.glob("bin/python" if os.name == "posix" else "Scripts/python.exe")
        self.packages = Path(self("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        for distribution in map(metadata.distribution, needed):
            self._copy(distribution)

    def _copy(self, distribution: metadata.Distribution) -> None:
        for file in distribution.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                target = self.packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), target)

    def __call__(self, code: str, **env: str) -> str:
        """What some code prints, to whichever end."""
        done = run(self.python, "-W", "error", "-c", textwrap.dedent(code), **env)
        return done.stdout + done.stderr

    def plugins(self) -> dict[str, dict[str, object]]:
        """What ``crewbus plugins`` says, by name."""
        done = run(self.python, "-m", "crewbus", "plugins", "--json")
        return {info["name"]: info for info in json.loads(done.stdout + done.stderr)}

    def files(self, name: str) -> set[str]:
        """What is installed of a distribution."""
        (distribution,) = metadata.Distribution.discover(name=name, path=[str(self.packages)])
        return {str(file) for file in distribution.files or ()}

    def install(self, *wheels: Path) -> Environment:
        """Install wheels with what they need, which is there."""
        pip("install", "--no-index", *wheels, python=self.python)
        return self

    def loaded(self, name: str, plugin: Path) -> dict[str, object]:
        """What ``crewbus plugins`` says of a plugin, which is loaded from the distribution in the folder ``plugin``."""
        info = self.plugins()[name]
        assert (info["status"], info["distribution"]) == ("loaded", plugin.name)
        version = re.search(r"^version = (.*)$", (plugin / "setup.cfg").read_text(), re.MULTILINE)
        assert version is not None
        assert info["version"] == version.group(1)
        return info

    def assert_gone_when_uninstalled(self, name: str, distribution: str) -> None:
        """Uninstall a distribution: nothing of it, nor its plugin ``name``, remains."""
        pip("uninstall", "--yes", distribution, python=self.python)
        assert name not in self.plugins()
        assert not (self.packages / distribution.replace("-", "_")).exists()

    def assert_has_types_and_licence_and_no_tests(self, distribution: str) -> None:
        """Look at what the wheel of a distribution has installed."""
        files = self.files(distribution)
        assert f"{distribution.replace('-', '_')}/py.typed" in files
        assert any(name.endswith("LICENSE") for name in files)
        assert not any("test" in name or "benchmark" in name for name in files)
