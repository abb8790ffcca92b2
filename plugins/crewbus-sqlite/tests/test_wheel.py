"""The distribution: built as a wheel, installed in a fresh environment, found, listed, blocked, and uninstalled."""

from __future__ import annotations

from pathlib import Path

import pytest
from wheels import CORE, Environment, can_build, wheels_of

PLUGIN = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not can_build(), reason="building a wheel needs pip and setuptools 77 or later")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return wheels_of(PLUGIN, tmp_path_factory.mktemp("wheels"))


@pytest.fixture
def installed(wheels, tmp_path):
    return Environment(tmp_path / "environment", *CORE).install(*wheels)


RECORDED = """
    import crewbus, os, sys
    os.chdir({folder!r})
    with crewbus.Bus(strict=True{options}) as bus, bus.run("writer"):
        bus.chunk("x")
    print(*sorted(os.listdir()), "crewbus_sqlite" in sys.modules)
"""


def test_it_is_found_listed_blocked_and_gone_when_uninstalled(installed, tmp_path):
    info = installed.loaded("sqlite", PLUGIN)
    assert {"crewbus_configure", "crewbus_open_store"} <= set(info["hooks"])

    def recorded(name, options="", **env):
        (tmp_path / name).mkdir()
        return installed(RECORDED.format(folder=str(tmp_path / name), options=options), **env)

    assert recorded("default") == "crewbus.db True\n"
    assert recorded("elsewhere", CREWBUS_STORE="sqlite:///runs.db") == "runs.db True\n"
    assert recorded("off", CREWBUS_RECORD="off") == "True\n"
    assert recorded("blocked", ", blocked=['sqlite']") == "False\n"

    installed.assert_gone_when_uninstalled("sqlite", "crewbus-sqlite")
    assert recorded("uninstalled") == "False\n"


def test_the_wheel_has_types_and_the_licence_and_no_tests(installed):
    installed.assert_has_types_and_licence_and_no_tests("crewbus-sqlite")
