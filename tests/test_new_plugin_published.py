"""From an idea to a published plugin, as its author and its user go about it: in fresh environments, with the registry.

crewbus itself is on no registry: its wheel is built here, and pip looks for it in the directory that it is in.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LONG = 600.0
"""Seconds that one command may take; the slowest makes five environments."""
ROOT = Path(__file__).parents[1]
OWN = ("COV", "CREWBUS", "PYTEST", "PYTHON", "TOX", "VIRTUAL_ENV", "__PYVENV")
"""How those variables begin that are about this process, and not about the machine and its registry."""
SECRET = "sk-0123456789"
AGENT = f"import crewbus\n\ndef answer():\n    crewbus.chunk('use {SECRET} for it')\n"


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**inherited, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_COLOR": "1", **env},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """A fresh virtual environment, and commands in it."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder / "work"
        self.folder.mkdir(parents=True)
        self.env = env
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")

    def __call__(self, command: str, *arguments: str | Path, cwd: str = ".", **env: str) -> str:
        """What it prints."""
        return run(self.bin / command, *arguments, cwd=self.folder / cwd, **{**self.env, **env})


def find_links() -> list[str]:
    """Where pip looks for distributions besides the index; what is set in the environment hides what is configured."""
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"], capture_output=True, text=True, check=False
    )
    return (os.environ.get("PIP_FIND_LINKS") or configured.stdout).split()


@pytest.fixture(scope="module")
def author(tmp_path_factory):
    """Who has installed crewbus and tox, and has made two plugins: one with a few hooks and a store, one with all."""
    folder = tmp_path_factory.mktemp("author")
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", ".*", "build")
    elsewhere = {"tests", "plugins", "docs", "benchmarks"}  # in the checkout itself: the package has plugins too

    def left_out(path: str, names: list[str]) -> set[str]:
        return ignored(path, names) | (elsewhere if Path(path) == ROOT else set())

    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    wheels = folder / "wheels"
    author = Environment(folder, PIP_FIND_LINKS=" ".join([*find_links(), str(wheels)]))
    author("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, folder / "source")
    author("pip", "install", "--quiet", "crewbus", "tox", "build")
    author("crewbus", "new-plugin", "acme", "--hooks", "emit,record,redact", "--store", "acme")
    author("crewbus", "new-plugin", "everything", "--hooks", "all")
    return author


@pytest.fixture(scope="module")
def index(author, tmp_path_factory):
    """A directory with what the author has built, and all that it needs."""
    folder = tmp_path_factory.mktemp("index")
    author("python", "-m", "build", "--outdir", folder, cwd="crewbus-acme")
    author("pip", "download", "--quiet", "--dest", folder, *folder.glob("*.whl"))
    return folder


@pytest.fixture(scope="module")
def user(index, tmp_path_factory):
    """Who has installed the plugin from there, and nothing else."""
    user = Environment(tmp_path_factory.mktemp("user"), PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="")
    user("pip", "install", "--quiet", "--no-index", "--find-links", index, "crewbus-acme")
    (user.folder / "agent.py").write_text(AGENT, "utf-8")
    return user


def test_tox_is_green_in_what_is_written(author):
    outcome = author("tox", "run", cwd="crewbus-acme")
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    for environment in ("lint", "type", *([python] if sys.version_info < (3, 14) else [])):
        assert f"  {environment}: OK" in outcome
    assert "FAIL" not in outcome
    assert not (author.folder / "crewbus-acme" / "build").exists(), "modules that are gone would stay in the wheel"


def test_style_and_types_are_clean_with_every_hook(author):
    assert "FAIL" not in author("tox", "run", "-e", "lint,type", cwd="crewbus-everything")


def test_what_is_published_is_what_is_used(index):
    files = sorted(path.name for path in index.iterdir() if path.name.startswith("crewbus_acme"))
    assert files == ["crewbus_acme-0.1.0-py3-none-any.whl", "crewbus_acme-0.1.0.tar.gz"]


def test_its_user_sees_it(user):
    plugins = {info["name"]: info for info in json.loads(user("crewbus", "plugins", "--json"))}
    assert plugins["acme"]["status"] == "loaded"
    assert (plugins["acme"]["distribution"], plugins["acme"]["version"]) == ("crewbus-acme", "0.1.0")
    hooks = {info["name"]: info["implementations"] for info in json.loads(user("crewbus", "hooks", "--json"))}
    assert {name for name, plugins in hooks.items() if "acme" in str(plugins)} == {
        "crewbus_emit",
        "crewbus_record",
        "crewbus_redact",
        "crewbus_open_store",
    }


def test_its_user_sees_what_it_does(user):
    assert user("crewbus", "run", "agent.py:answer") == "use [key] for it"


def test_its_user_records_to_its_store(user):
    user("crewbus", "run", "agent.py:answer", "--record", "--store", "acme:records")
    assert SECRET not in (user.folder / "records").read_text("utf-8")
    (recorded,) = json.loads(user("crewbus", "runs", "--json", "--store", "acme:records"))
    assert (recorded["name"], recorded["state"]) == ("answer", "finished")


def test_its_user_leaves_it_out(user):
    assert SECRET in user("crewbus", "run", "agent.py:answer", CREWBUS_BLOCK="acme")
    assert SECRET in user("crewbus", "run", "-p", "no:acme", "agent.py:answer")


def test_its_user_requires_it(user):
    assert "[key]" in user("crewbus", "run", "--require", "acme>=0.1", "agent.py:answer")
    with pytest.raises(AssertionError, match="acme"):
        user("crewbus", "run", "--require", "acme>=0.1", "agent.py:answer", CREWBUS_BLOCK="acme")
