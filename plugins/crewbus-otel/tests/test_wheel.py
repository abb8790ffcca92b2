"""The distribution: built as a wheel, installed in a fresh environment, found, listed, blocked, and uninstalled."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from wheels import CORE, Environment, build_wheel, can_build, pip

PLUGIN = Path(__file__).parents[1]
ROOT = PLUGIN.parents[1]

pytestmark = [
    pytest.mark.skipif(not can_build(), reason="building a wheel needs pip and setuptools 77 or later"),
    pytest.mark.skipif(find_spec("opentelemetry") is None, reason="OpenTelemetry is not there"),
]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return [build_wheel(source, tmp_path_factory.mktemp(source.name)) for source in (ROOT, PLUGIN)]


@pytest.fixture
def installed(wheels, tmp_path):
    environment = Environment(tmp_path / "environment", *CORE, "opentelemetry-api")
    pip("install", "--no-index", *wheels, python=environment.python)  # with what they need, which is there
    return environment


def test_it_is_found_listed_blocked_and_gone_when_uninstalled(installed):
    info = installed.plugins()["otel"]
    assert (info["status"], info["distribution"]) == ("loaded", "crewbus-otel")
    assert info["version"] == re.search(r"^version = (.*)$", (PLUGIN / "setup.cfg").read_text(), re.MULTILINE).group(1)
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

    pip("uninstall", "--yes", "crewbus-otel", python=installed.python)
    assert "otel" not in installed.plugins()
    assert not (installed.packages / "crewbus_otel").exists()


def test_the_wheel_has_types_and_the_licence_and_no_tests(installed):
    files = installed.files("crewbus-otel")
    assert "crewbus_otel/py.typed" in files
    assert any(name.endswith("LICENSE") for name in files)
    assert not any("test" in name or "benchmark" in name for name in files)
