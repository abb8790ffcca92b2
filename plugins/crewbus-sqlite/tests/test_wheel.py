"""The distribution: built as a wheel, installed in a fresh environment, found, listed, blocked, and uninstalled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from wheels import CORE, Environment, build_wheel, can_build, pip

PLUGIN = Path(__file__).parents[1]
ROOT = PLUGIN.parents[1]

pytestmark = pytest.mark.skipif(not can_build(), reason="building a wheel needs pip and setuptools 77 or later")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return [build_wheel(source, tmp_path_factory.mktemp(source.name)) for source in (ROOT, PLUGIN)]


@pytest.fixture
def installed(wheels, tmp_path):
    environment = Environment(tmp_path / "environment", *CORE)
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
    files = installed.files("crewbus-sqlite")
    assert "crewbus_sqlite/py.typed" in files
    assert any(name.endswith("LICENSE") for name in files)
    assert not any("test" in name or "benchmark" in name for name in files)
