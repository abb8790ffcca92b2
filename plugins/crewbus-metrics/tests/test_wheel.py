"""The distribution: built as a wheel, installed in a fresh environment, found, listed, blocked, and uninstalled."""

from __future__ import annotations

import re
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
    info = installed.loaded("metrics", PLUGIN)
    assert "crewbus_emit" in info["hooks"]

    counted = """
        import crewbus
        with crewbus.Bus(strict=True) as bus, bus.run("writer"):
            metrics = bus.plugins.get_plugin("metrics")
            bus.chunk("x")
            print(type(metrics).__module__, metrics.snapshot().events["writer"].counts["crewbus.Chunk"])
    """
    assert installed(counted) == "crewbus_metrics.metrics 1\n"
    assert re.search(r"^in writer: 3 events", installed(counted, CREWBUS_METRICS="stderr"), re.MULTILINE)

    replaced = """
        import crewbus
        from crewbus_metrics import Metrics
        mine = Metrics(lambda text: print(text.splitlines()[0][:8]))
        with crewbus.Bus([("metrics", mine)], strict=True) as bus, bus.run("writer"):
            print([name for name, plugin in bus.plugins.list_name_plugin() if isinstance(plugin, Metrics)])
    """
    assert installed(replaced, CREWBUS_METRICS="stderr") == "['metrics']\n2 events\n"

    blocked = """
        import sys, crewbus
        with crewbus.Bus(blocked=["metrics"], strict=True) as bus:
            print(bus.plugins.get_plugin("metrics"), "crewbus_metrics" in sys.modules)
            print(*[info.reason for info in bus.plugins.infos() if info.name == "metrics"])
    """
    assert installed(blocked) == "None False\nblocked by name\n"

    installed.assert_gone_when_uninstalled("metrics", "crewbus-metrics")


def test_the_wheel_has_types_and_the_licence_and_no_tests(installed):
    installed.assert_has_types_and_licence_and_no_tests("crewbus-metrics")
