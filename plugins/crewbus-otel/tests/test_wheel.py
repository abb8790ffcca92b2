"""The distribution: built as a wheel, installed in a fresh environment, found, listed, blocked, and uninstalled."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from wheels import CORE, Environment, can_build, wheels_of

PLUGIN = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(not can_build(), reason="building a wheel needs pip and setuptools 77 or later"),
    pytest.mark.skipif(find_spec("opentelemetry") is None, reason="OpenTelemetry is not there"),
]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return wheels_of(PLUGIN, tmp_path_factory.mktemp("wheels"))


@pytest.fixture
def installed(wheels, tmp_path):
    return Environment(tmp_path / "environment", *CORE, "opentelemetry-api").install(*wheels)


def test_it_is_found_listed_blocked_and_gone_when_uninstalled(installed):
    info = installed.loaded("otel", PLUGIN)
    assert sorted(info["hooks"]) == ["crewbus_close", "crewbus_configure", "crewbus_run_start"]

    without_sdk = """
        import crewbus
        with crewbus.Bus(strict=True) as bus, bus.run("r"), bus.call("m"):
            print(bus.plugins.has_plugin("otel"), bus.plugins.has_plugin("otel_observer"))
    """
    assert installed(without_sdk) == "True False\n"

    blocked = """
        import sys, crewbus
        with crewbus.Bus(blocked=["otel"], strict=True) as bus:
            print(bus.plugins.get_plugin("otel"), "crewbus_otel" in sys.modules)
    """
    assert installed(blocked) == "None False\n"

    installed.assert_gone_when_uninstalled("otel", "crewbus-otel")


def test_the_wheel_has_types_and_the_licence_and_no_tests(installed):
    installed.assert_has_types_and_licence_and_no_tests("crewbus-otel")
