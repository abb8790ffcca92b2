"""The distribution: built as a wheel, installed in a fresh environment, found, listed, blocked, and uninstalled."""

from __future__ import annotations

from pathlib import Path

import pytest
from wheels import CORE, Environment, can_build, wheels_of, with_dependencies

PLUGIN = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not can_build(), reason="building a wheel needs pip and setuptools 77 or later")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return wheels_of(PLUGIN, tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    needed = {*CORE, *with_dependencies("langchain-core", "wrapt")}
    return Environment(tmp_path_factory.mktemp("environment"), *needed).install(*wheels)


def test_it_is_found_listed_blocked_and_gone_when_uninstalled(installed):
    info = installed.loaded("langchain", PLUGIN)
    assert sorted(info["hooks"]) == ["crewbus_close", "crewbus_configure"]

    reported = """
        import sys, crewbus
        with crewbus.Bus(strict=True) as bus:
            print("langchain_core" in sys.modules)
            from langchain_core.runnables import RunnableLambda
            bus.on(crewbus.RunEnded, lambda envelope: print(type(envelope.event).__name__))
            print(RunnableLambda(abs).invoke(-1))
    """
    assert installed(reported, LANGSMITH_TRACING="false") == "False\nRunFinished\n1\n"

    blocked = """
        import sys, crewbus
        with crewbus.Bus(blocked=["langchain"], strict=True) as bus:
            print(bus.plugins.get_plugin("langchain"), "crewbus_langchain" in sys.modules)
    """
    assert installed(blocked) == "None False\n"
    installed.assert_has_types_and_licence_and_no_tests("crewbus-langchain")

    installed.assert_gone_when_uninstalled("langchain", "crewbus-langchain")
