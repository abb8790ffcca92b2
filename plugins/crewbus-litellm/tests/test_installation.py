"""Installing and uninstalling: repeatedly, for several buses, by the plugin; litellm is restored afterwards."""

from __future__ import annotations

import functools
import importlib

import litellm
import pytest
from helpers import quiet_bus
from litellm import acompletion, completion
from styles import Listener, run_async

import crewbus
import crewbus_litellm
from crewbus_litellm.patches import router_class

EARLY = functools.partial(completion, "openai/x", [{"role": "user", "content": "?"}], mock_response="!")
ROUTER = router_class()
REPORTED = ["CallStarted", "CallFinished"]
MODULES = [
    "litellm",
    "litellm.main",
    "litellm.utils",
    "litellm.router",
    "litellm.chat_completions.dispatch",
    "litellm.litellm_core_utils.asyncify",
    "litellm.litellm_core_utils.fallback_utils",
    "litellm.litellm_core_utils.streaming_handler",
]


def state():
    """The contents of litellm's modules and classes, and the code of each function."""
    spaces = [vars(importlib.import_module(name)) for name in MODULES]
    spaces += [vars(cls) for cls in (litellm.Router, ROUTER, litellm.CustomStreamWrapper)]
    held = {(i, name): value for i, space in enumerate(spaces) for name, value in space.items()}
    functions = [litellm.completion, litellm.acompletion, *held.values()]
    for function in functions:
        inner = getattr(function, "__wrapped__", None)
        if inner is not None and not any(inner is known for known in functions):
            functions.append(inner)
    codes = [(f, f.__code__) for f in functions if hasattr(f, "__code__")]
    lists = {key: list(value) for key, value in held.items() if isinstance(value, list)}
    return held, codes, lists


def same(before, after):
    held, codes, lists = before
    return (
        held.keys() == after[0].keys()
        and all(value is after[0][key] for key, value in held.items())
        and all(code is then and f is g for (f, code), (g, then) in zip(codes, after[1], strict=True))
        and lists == after[2]
    )


def heard(bus, call=EARLY):
    listener = Listener()
    with bus.callbacks(listener):
        call()
    return listener.names


@pytest.fixture(scope="module", autouse=True)
def called_before():
    """litellm loads modules at its first call; they must be loaded before anything is compared."""
    EARLY()
    run_async(functools.partial(acompletion, *EARLY.args, **EARLY.keywords))


@pytest.fixture
def fresh():
    """A bus that is not installed; afterwards nothing is installed."""
    with quiet_bus() as bus:
        yield bus
    crewbus_litellm.uninstall()


def test_uninstalling_restores_litellm(fresh):
    before = state()
    crewbus_litellm.install(fresh)
    installed = state()
    assert not same(before, installed)
    assert all(value is installed[0][key] for key, value in before[0].items())  # only code is swapped
    crewbus_litellm.uninstall()
    assert same(before, state())


def test_a_call_changes_no_globals(fresh):
    crewbus_litellm.install(fresh)
    heard(fresh)
    before = state()
    heard(fresh)
    assert same(before, state())


def test_installing_is_idempotent(fresh):
    crewbus_litellm.install(fresh)
    before = state()
    crewbus_litellm.install(fresh)
    assert same(before, state())
    assert heard(fresh) == REPORTED
    crewbus_litellm.uninstall()
    assert heard(fresh) == []


def test_references_taken_before_the_installation_are_reported(fresh):
    assert heard(fresh) == []
    crewbus_litellm.install(fresh)
    assert heard(fresh) == REPORTED
    assert heard(fresh, lambda: run_async(functools.partial(acompletion, *EARLY.args, **EARLY.keywords))) == REPORTED
    assert heard(fresh, functools.partial(litellm.main.completion, *EARLY.args, **EARLY.keywords)) == REPORTED


def test_install_serves_the_default_bus_by_default():
    try:
        crewbus_litellm.install()
        assert heard(crewbus.default_bus()) == REPORTED
    finally:
        crewbus_litellm.uninstall()
        crewbus.default_bus().close()


def test_a_call_without_listeners_works_as_before(fresh):
    crewbus_litellm.install(fresh)
    assert EARLY().choices[0].message.content == "!"


# The plugin


def test_the_plugin_serves_a_bus_until_it_is_closed():
    before = state()
    with crewbus.Bus(plugins=[crewbus_litellm.LitellmPlugin], entry_points=False) as bus:
        assert heard(bus) == REPORTED
    assert same(before, state())


def test_the_entry_point_names_the_plugin():
    (found,) = importlib.metadata.entry_points(group="crewbus", name="litellm") or [None]
    if found is None:
        pytest.skip("crewbus-litellm is not installed as a distribution")
    assert found.load() is crewbus_litellm.LitellmPlugin
    with crewbus.Bus() as bus:
        assert heard(bus) == REPORTED


def test_several_buses_may_load_the_plugin():
    buses = [crewbus.Bus(plugins=[crewbus_litellm.LitellmPlugin], entry_points=False) for _ in range(3)]
    before = state()
    assert [heard(bus) for bus in buses] == [REPORTED] * 3
    buses[0].close()
    assert same(before, state())  # the others are still served
    assert [heard(bus) for bus in buses[1:]] == [REPORTED] * 2
    for bus in buses:
        bus.close()
    assert not same(before, state())


# Which bus


@pytest.fixture
def pair():
    """Two served buses; the second was installed later."""
    with quiet_bus() as one, quiet_bus() as other:
        crewbus_litellm.install(one)
        crewbus_litellm.install(other)
        yield one, other
    crewbus_litellm.uninstall()


def on(bus):
    """What handlers of the bus hear."""
    events = []
    bus.on(crewbus.CallEnded, lambda envelope: events.append(envelope.run_id))
    return events


@pytest.mark.parametrize("which", [0, 1])
def test_a_call_belongs_to_the_bus_of_the_run_in_scope(pair, which):
    heard_by = [on(bus) for bus in pair]
    with pair[which].run() as run:
        EARLY()
    assert (heard_by[which], heard_by[1 - which]) == ([run.id], [])


@pytest.mark.parametrize("which", [0, 1])
def test_a_call_belongs_to_the_bus_of_the_callbacks_in_scope(pair, which):
    heard_by = [on(bus) for bus in pair]
    with pair[1 - which].run():
        assert heard(pair[which]) == REPORTED
    assert (heard_by[which], heard_by[1 - which]) == ([None], [])


@pytest.mark.parametrize("which", [0, 1])
def test_a_call_belongs_to_the_bus_of_the_call_in_scope(pair, which):
    listener = Listener()
    with pair[which].call("agent", callbacks=[listener]):
        EARLY()
    assert listener.names == [REPORTED[0], *REPORTED, REPORTED[1]]
