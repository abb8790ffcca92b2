"""Installing and uninstalling: repeatedly, for several buses, by the plugin, in any order of imports; versions."""

from __future__ import annotations

import configparser
import operator
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest
from hearing import Hearing
from helpers import TIMEOUT, quiet_bus
from langchain_core.callbacks.manager import AsyncCallbackManager, AsyncCallbackManagerForLLMRun, CallbackManager
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables import config as runnable_config
from langchain_core.tracers import context as tracers_context
from langgraph._internal import _runnable
from langgraph.runtime import Runtime
from models import Scripted, graph_of

import crewbus
import crewbus_langchain
from crewbus_langchain.integration import integration, langgraph

PACKAGE = Path(__file__).parents[1]


def state():
    """What is patched, and the handlers of a new run."""
    return (
        list(tracers_context._configure_hooks),
        runnable_config._set_config_context,
        _runnable._set_config_context,
        vars(AsyncCallbackManagerForLLMRun)["on_llm_new_token"],
        vars(AsyncCallbackManagerForLLMRun)["on_stream_event"],
        vars(AsyncCallbackManager)["on_llm_start"],
        vars(Runtime)["merge"],
        CallbackManager.configure().handlers,
    )


def same(one, other):
    """Whether all is the same; wrapped functions are equal to those that they wrap."""
    return (one[0], one[-1]) == (other[0], other[-1]) and all(map(operator.is_, one[1:-1], other[1:-1]))


@pytest.fixture
def fresh():
    """A bus that is not installed; afterwards nothing is installed."""
    with quiet_bus() as bus:
        yield bus
    crewbus_langchain.uninstall()


def reported(bus):
    heard = Hearing(bus)
    RunnableLambda(str).invoke(1)
    return heard.tree


def test_uninstalling_restores_langchain(fresh):
    before = state()
    crewbus_langchain.install(fresh)
    installed = state()
    assert all(one is not other for one, other in zip(before, installed, strict=True))
    crewbus_langchain.install(fresh)
    assert same(state(), installed)
    assert reported(fresh) == ["str"]
    crewbus_langchain.uninstall()
    assert same(state(), before)
    assert reported(fresh) == []


def test_what_began_before_uninstalling_is_reported_until_it_ends(fresh):
    crewbus_langchain.install(fresh)
    heard = Hearing(fresh)
    stream = Scripted().stream("?")
    next(stream)
    crewbus_langchain.uninstall()
    list(stream)
    assert (heard.text, heard.end.output) == ("The moon.", "The moon.")


def test_the_plugin_serves_its_bus_until_that_closes():
    before = state()
    with crewbus.Bus(plugins=[("langchain", crewbus_langchain.LangchainPlugin)], entry_points=False) as bus:
        assert reported(bus) == ["str"]
    assert same(state(), before)


def test_work_is_reported_to_the_bus_of_the_scope_it_is_in(fresh):
    with quiet_bus() as other:
        crewbus_langchain.install(fresh)
        crewbus_langchain.install(other)
        first, second = Hearing(fresh), Hearing(other)
        with fresh.run("here"):
            graph_of(RunnableLambda(lambda state: {}).with_config(run_name="x").func).invoke({"asked": "?"})
        RunnableLambda(str).invoke(1)
        assert first.tree[:2] == ["here", "here/LangGraph"]
        assert second.tree == ["str"]


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=3 * TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_neither_importing_nor_installing_imports_langchain():
    run(
        """
        import crewbus, crewbus_langchain
        bus = crewbus.Bus(plugins=[("langchain", crewbus_langchain.LangchainPlugin)], entry_points=False)
        crewbus_langchain.install(bus)
        with bus, bus.run():
            bus.chunk("x")
        assert not [name for name in sys.modules if name.partition(".")[0] in {"langchain_core", "langgraph"}]
        """
    )


@pytest.mark.parametrize(
    ("first", "installs"),
    [("langchain_core.runnables", "before"), ("langgraph.graph", "before"), ("langgraph.pregel.main", "after")],
)
def test_no_order_of_imports_matters(first, installs):
    install = "crewbus_langchain.install(bus)"
    run(
        f"""
        import crewbus, crewbus_langchain, asyncio
        bus = crewbus.Bus(entry_points=False)
        {install if installs == "before" else ""}
        import {first}
        {install if installs == "after" else ""}
        from langgraph.graph import StateGraph, START
        heard = []
        bus.on(crewbus.RunStarted, lambda envelope: heard.append(envelope.event.name))
        bus.on(crewbus.Chunk, lambda envelope: heard.append(envelope.run_id is not None))
        builder = StateGraph(dict)
        builder.add_node("node", lambda state: bus.chunk("x") and {{}})
        builder.add_edge(START, "node")
        builder.compile().invoke({{}})
        assert heard == ["LangGraph", "node", True], heard
        """
    )


# Versions


@pytest.fixture
def install(monkeypatch):
    """Installs for a bus, with the versions given."""

    def install(**versions):
        found = {"langchain-core": "1.8.3", "langgraph": "1.2.24"} | versions
        with monkeypatch.context() as patch, quiet_bus() as bus:
            patch.setattr(metadata, "version", found.__getitem__)
            crewbus_langchain.install(bus)

    yield install
    crewbus_langchain.uninstall()


@pytest.mark.parametrize("version", ["1.8.0", "1.8.3", "1.99.0"])
def test_supported_versions_are_accepted(install, version):
    install(**{"langchain-core": version})


@pytest.mark.parametrize(
    ("name", "version"),
    [("langchain-core", "0.3.80"), ("langchain-core", "2.0.0"), ("langgraph", "1.1.0"), ("langgraph", "2.0")],
)
def test_unsupported_versions_are_rejected_with_the_version_found(install, name, version):
    with pytest.raises(crewbus.PluginError, match=f"found {name} {version}"):
        install(**{name: version})


def test_a_bus_skips_the_plugin_of_an_unsupported_version_with_a_warning(monkeypatch):
    monkeypatch.setattr(metadata, "version", {"langchain-core": "0.3.80", "langgraph": "1.2.24"}.__getitem__)
    with pytest.warns(crewbus.PluginWarning, match=r"found langchain-core 0\.3\.80"):
        bus = crewbus.Bus(plugins=[("langchain", crewbus_langchain.LangchainPlugin)], entry_points=False)
    bus.close()


def test_the_metadata_has_the_same_requirements():
    setup = configparser.ConfigParser()
    setup.read(PACKAGE / "setup.cfg")
    assert integration.requires in setup["options"]["install_requires"].split()
    assert langgraph.requires in setup["options.extras_require"]["langgraph"].split()
