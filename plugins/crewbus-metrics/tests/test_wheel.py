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


def test_it_is_found_listed_blocked_and_gone_when_uninstalled(installed):
    info = installed.plugins()["metrics"]
    assert (info["status"], info["distribution"]) == ("loaded", "crewbus-metrics")
    assert info["version"] == re.search(r"^version = (.*)$", (PLUGIN / "setup.cfg").read_text(), re.MULTILINE).group(1)
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

    pip("uninstall", "--yes", "crewbus-metrics", python=installed.python)
    assert "metrics" not in installed.plugins()
    assert not (installed.packages / "crewbus_metrics").exists()


def test_the_wheel_has_types_and_the_licence_and_no_tests(installed):
    files = installed.files("crewbus-metrics")
    assert "crewbus_metrics/py.typed" in files
    assert any(name.endswith("LICENSE") for name in files)
    assert not any("test" in name or "benchmark" in name for name in files)
