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
    info = installed.plugins()["workers"]
    assert (info["status"], info["distribution"]) == ("loaded", "crewbus-workers")
    assert info["version"] == re.search(r"^version = (.*)$", (PLUGIN / "setup.cfg").read_text(), re.MULTILINE).group(1)
    assert sorted(info["hooks"]) == ["crewbus_cli_commands", "crewbus_event_types"]

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

    pip("uninstall", "--yes", "crewbus-workers", python=installed.python)
    assert "workers" not in installed.plugins()
    assert not (installed.packages / "crewbus_workers").exists()


def test_the_wheel_has_types_and_the_licence_and_no_tests(installed):
    files = installed.files("crewbus-workers")
    assert "crewbus_workers/py.typed" in files
    assert any(name.endswith("LICENSE") for name in files)
    assert not any("test" in name or "benchmark" in name for name in files)
