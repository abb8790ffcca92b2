"""What the tests of distributions share: building a wheel and installing it, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

BUILDS = 240.0
"""Seconds that building or installing may take; it takes two."""


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


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of ``source``, beside which building writes, and put it in ``folder``; returns the wheel."""
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_alone(wheel: Path, folder: Path) -> Path:
    """Install a wheel, and nothing that it needs, in a folder of its own; returns the folder."""
    pip("install", "--no-index", "--no-deps", "--no-compile", "--target", folder, wheel)
    return folder


def pip(*arguments: str | Path) -> None:
    """Call pip, untouched by how these tests are run."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CREWBUS", "PYTEST"))}
    quiet = ["--disable-pip-version-check", "--no-input"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *quiet, *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=BUILDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
