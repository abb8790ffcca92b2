"""Installing and uninstalling: twice, for several buses, by the plugin; and litellm as it was."""

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
from crewbus_litellm._seams import _router

EARLY = functools.partial(completion, "openai/x", [{"role": "user", "content": "?"}], mock_response="!")
ROUTER = _router()
TOLD = ["CallStarted", "CallFinished"]
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
    """All that litellm's modules and classes hold, and the code of each function among it."""
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
    """What litellm loads at its first call is its own affair, and is there before anything is compared."""
    EARLY()
    run_async(functools.partial(acompletion, *EARLY.args, **EARLY.keywords))


@pytest.fixture
def fresh():
    """A bus that nobody installed anything for; afterwards nothing is installed."""
    with quiet_bus() as bus:
        yield bus
    crewbus_litellm.uninstall()


def test_uninstalling_puts_back_what_was(fresh):
    before = state()
    crewbus_litellm.install(fresh)
    installed = state()
    assert not same(before, installed)
    assert all(value is installed[0][key] for key, value in before[0].items())  # even now: only code is exchanged
    crewbus_litellm.uninstall()
    assert same(before, state())


def test_the_globals_are_never_touched_by_a_call(fresh):
    crewbus_litellm.install(fresh)
    heard(fresh)
    before = state()
    heard(fresh)
    assert same(before, state())


def test_installing_again_does_nothing_more(fresh):
    crewbus_litellm.install(fresh)
    before = state()
    crewbus_litellm.install(fresh)
    assert same(before, state())
    assert heard(fresh) == TOLD
    crewbus_litellm.uninstall()
    assert heard(fresh) == []


def test_what_was_imported_before_is_followed_too(fresh):
    assert heard(fresh) == []
    crewbus_litellm.install(fresh)
    assert heard(fresh) == TOLD
    assert heard(fresh, lambda: run_async(functools.partial(acompletion, *EARLY.args, **EARLY.keywords))) == TOLD
    assert heard(fresh, functools.partial(litellm.main.completion, *EARLY.args, **EARLY.keywords)) == TOLD


def test_without_a_bus_it_is_the_default_one():
    try:
        crewbus_litellm.install()
        assert heard(crewbus.default_bus()) == TOLD
    finally:
        crewbus_litellm.uninstall()
        crewbus.default_bus().close()


def test_a_call_nobody_listens_to_is_no_different(fresh):
    crewbus_litellm.install(fresh)
    assert EARLY().choices[0].message.content == "!"


# The plugin


def test_the_plugin_serves_a_bus_until_it_is_closed():
    before = state()
    with crewbus.Bus(plugins=[crewbus_litellm.LitellmPlugin], entry_points=False) as bus:
        assert heard(bus) == TOLD
    assert same(before, state())


def test_the_entry_point_names_the_plugin():
    (found,) = importlib.metadata.entry_points(group="crewbus", name="litellm") or [None]
    if found is None:
        pytest.skip("crewbus-litellm is not installed as a distribution")
    assert found.load() is crewbus_litellm.LitellmPlugin
    with crewbus.Bus() as bus:
        assert heard(bus) == TOLD


def test_many_buses_may_load_it():
    buses = [crewbus.Bus(plugins=[crewbus_litellm.LitellmPlugin], entry_points=False) for _ in range(3)]
    before = state()
    assert [heard(bus) for bus in buses] == [TOLD] * 3
    buses[0].close()
    assert same(before, state())  # the others are served still
    assert [heard(bus) for bus in buses[1:]] == [TOLD] * 2
    for bus in buses:
        bus.close()
    assert not same(before, state())


# Which bus


@pytest.fixture
def pair():
    """Two buses, both served; the second was installed later."""
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
        assert heard(pair[which]) == TOLD
    assert (heard_by[which], heard_by[1 - which]) == ([None], [])


@pytest.mark.parametrize("which", [0, 1])
def test_a_call_belongs_to_the_bus_of_the_call_in_scope(pair, which):
    listener = Listener()
    with pair[which].call("agent", callbacks=[listener]):
        EARLY()
    assert listener.names == [TOLD[0], *TOLD, TOLD[1]]
