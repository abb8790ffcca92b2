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


def test_it_is_found_listed_blocked_and_gone_when_uninstalled(installed):
    info = installed.loaded("workers", PLUGIN)
    assert sorted(info["hooks"]) == ["crewbus_cli_commands", "crewbus_configure", "crewbus_event_types"]

    queued = """
        import crewbus
        from crewbus_workers import enqueue, worker, workflow

        @workflow(name="double")
        def double(number: int) -> int:
            return 2 * number

        with crewbus.Bus(strict=True) as bus:
            bus.enable_recording("memory:")
            with worker(bus):
                print(bus.result(enqueue(bus, "double", 21), timeout=60))
    """
    assert installed(queued) == "42\n"

    blocked = """
        import sys, crewbus
        with crewbus.Bus(blocked=["workers"], strict=True) as bus:
            print(bus.plugins.get_plugin("workers"), "crewbus_workers" in sys.modules)
    """
    assert installed(blocked) == "None False\n"

    installed.assert_gone_when_uninstalled("workers", "crewbus-workers")


def test_the_wheel_has_types_and_the_licence_and_no_tests(installed):
    installed.assert_has_types_and_licence_and_no_tests("crewbus-workers")
