"""Installing and uninstalling: repeatedly, for several buses, by the plugin; crewAI is restored afterwards."""

from __future__ import annotations

import gc
import importlib
import weakref
from importlib import metadata

import litellm.utils
import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import CrewAIEventsBus, crewai_event_bus
from crewai.flow.runtime import Flow
from crewai.llms.base_llm import BaseLLM
from crewai.state.runtime import RuntimeState
from crewai.tools.base_tool import BaseTool, Tool
from crewai.tools.structured_tool import CrewStructuredTool
from crews import installed, make_crew
from helpers import quiet_bus
from scripted import Scripted

import crewbus
import crewbus_crewai
from crewbus_crewai.patch_set import PatchSet

CLASSES = [
    Agent,
    BaseLLM,
    BaseTool,
    Crew,
    CrewAIEventsBus,
    CrewStructuredTool,
    Flow,
    LLM,
    RuntimeState,
    Scripted,
    Task,
    Tool,
]
MODULES = [
    "crewai.crew",
    "crewai.crews.utils",
    "crewai.execution",
    "crewai.lite_agent",
    "crewai.state.checkpoint_listener",
    "crewai.state.event_record",
    "crewai.state.provider.sqlite_provider",
    "crewai.state.provider.utils",
    "crewai.state.runtime",
    "crewai.utilities.streaming",
    "litellm.utils",
]


class Pinged(BaseEvent):
    type: str = "pinged"


def state():
    """The contents of the modules and classes that are patched."""
    spaces = [*CLASSES, *(importlib.import_module(name) for name in MODULES)]
    return {(str(space), name): value for space in spaces for name, value in vars(space).items() if name != "_abc_impl"}


def changed(before):
    now = state()
    return [key for key in before.keys() | now.keys() if before.get(key) is not now.get(key)]


def heard(bus, emit=lambda: crewai_event_bus.emit(None, Pinged())):
    """How many of crewAI's events the handlers of a bus receive."""
    events = []
    bus.on(Pinged, events.append)
    emit()
    return len(events)


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    crewbus_crewai.uninstall()


def test_uninstalling_restores_crewai():
    LLM(model="openai/x", is_litellm=True)
    before = state()
    with installed():
        LLM(model="openai/x", is_litellm=True)  # this patches litellm, too
        assert len(changed(before)) > 30
        assert ("<module 'litellm.utils'", "function_setup") in {
            (space.partition(" from")[0], name) for space, name in changed(before)
        }
    assert changed(before) == []


def test_installing_is_idempotent():
    with quiet_bus() as bus:
        crewbus_crewai.install(bus)
        once = state()
        crewbus_crewai.install(bus)
        assert changed(once) == []
        assert heard(bus) == 1
        crewbus_crewai.uninstall()
        assert heard(bus) == 0


def test_a_method_that_others_replaced_later_is_left_alone(monkeypatch):
    with quiet_bus() as bus:
        crewbus_crewai.install(bus)
        ours = CrewAIEventsBus._prepare_event

        def theirs(*args):
            ours(*args)

        monkeypatch.setattr(CrewAIEventsBus, "_prepare_event", theirs)
        assert heard(bus) == 1
        crewbus_crewai.uninstall()
        assert CrewAIEventsBus._prepare_event is theirs
        assert heard(bus) == 0
    monkeypatch.undo()
    CrewAIEventsBus._prepare_event = ours.__wrapped__


class Traced:
    """A third-party wrapper that must be bound before it is called, as wrapt's must."""

    def __init__(self, method):
        self.method = method
        self.traced = []

    def __call__(self, *args, **kwargs):
        raise AssertionError("it was not bound")

    def __get__(self, instance, owner=None):
        def bound(*args, **kwargs):
            self.traced.append(owner)
            return self.method.__get__(instance, owner)(*args, **kwargs)

        return bound


@pytest.mark.parametrize(("owner", "name"), [(Crew, "kickoff"), (Agent, "execute_task"), (Scripted, "call")])
def test_a_method_that_others_wrapped_before_is_bound_and_called(monkeypatch, owner, name):
    traced = Traced(vars(owner)[name])
    monkeypatch.setattr(owner, name, traced)
    with installed() as bus:
        started = []
        bus.on(crewbus.RunStarted, started.append)
        made = make_crew(None, "traced", llm=Scripted.of("Final Answer: it"))
        assert made.kickoff().raw == "it"
        assert [envelope.event.name for envelope in started] == ["traced"]
    assert traced.traced == [owner]
    assert vars(owner)[name] is traced


def test_install_serves_the_default_bus_by_default():
    try:
        crewbus_crewai.install()
        assert heard(crewbus.default_bus()) == 1
    finally:
        crewbus_crewai.uninstall()
        crewbus.default_bus().close()


def test_models_defined_later_are_patched_and_restored():
    with installed() as bus:

        class Later(Scripted):
            def call(self, messages, *args, **kwargs):
                return "later"

        calls = []
        bus.on(crewbus.CallFinished, lambda envelope: calls.append(envelope.event.output))
        assert Later(model="later").call("?") == "later"
    assert Later(model="later").call("?") == "later"
    assert calls == ["later"]


def test_models_defined_later_are_not_kept_alive():
    def define():
        class Passing(Scripted):
            def call(self, messages, *args, **kwargs):
                return super().call(messages)

        return weakref.ref(Passing)

    with installed():
        defined = [define() for _ in range(3)]
        gc.collect()
        assert [one() for one in defined] == [None] * 3


def test_a_restored_patch_set_wraps_nothing_more():
    class Slow:
        def move(self):
            return "as it was"

    patches = PatchSet()
    patches.restore()
    patches.wrap(Slow, "move", lambda wrapped, instance, args, kwargs: "wrapped")
    assert Slow().move() == "as it was"


# The plugin


def test_the_plugin_serves_a_bus_until_it_is_closed():
    before = state()
    with crewbus.Bus(plugins=[crewbus_crewai.CrewaiPlugin], entry_points=False) as bus:
        assert heard(bus) == 1
    assert changed(before) == []


def test_the_entry_point_names_the_plugin():
    (found,) = metadata.entry_points(group="crewbus", name="crewai") or [None]
    if found is None:
        pytest.skip("crewbus-crewai is not installed as a distribution")
    assert found.load() is crewbus_crewai.CrewaiPlugin
    with crewbus.Bus(["crewai"], entry_points=False) as bus:
        assert heard(bus) == 1


def test_several_buses_may_load_the_plugin():
    before = state()
    buses = [crewbus.Bus(plugins=[crewbus_crewai.CrewaiPlugin], entry_points=False) for _ in range(3)]
    assert heard(buses[0]) == 1
    buses[0].close()
    assert changed(before) != []  # the others are still served
    assert heard(buses[1]) == 1
    for bus in buses:
        bus.close()
    assert changed(before) == []


# Which bus


@pytest.fixture
def pair():
    """Two served buses; the second was installed later."""
    with quiet_bus() as one, quiet_bus() as other:
        crewbus_crewai.install(one)
        crewbus_crewai.install(other)
        yield one, other


@pytest.mark.parametrize("which", [0, 1])
def test_an_event_belongs_to_the_bus_of_the_run_in_scope(pair, which):
    counts = [[], []]
    for bus, count in zip(pair, counts, strict=True):
        bus.on(Pinged, count.append)
    with pair[which].run():
        crewai_event_bus.emit(None, Pinged())
    assert [len(count) for count in counts] == [1 - which, which]


def test_litellm_is_patched_once():
    with installed():
        LLM(model="openai/x", is_litellm=True)
        patched = litellm.utils.function_setup
        LLM(model="openai/y", is_litellm=True)
        assert litellm.utils.function_setup is patched
