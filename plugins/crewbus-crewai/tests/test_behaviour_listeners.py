"""crewAI's listeners and handlers, with and without the plugin."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest
from behaviour import CHUNKS, MODES, answer, crew, crewai, listening, llm, pieces
from helpers import TIMEOUT
from lifecycle_helpers import until

pytest_plugins = ["behaviour_fixtures"]
pytestmark = [pytest.mark.usefixtures("either_way"), pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")]


@pytest.fixture
def bus():
    """crewAI's bus, without any handlers but the test's own."""
    with crewai().crewai_event_bus.scoped_handlers():
        yield crewai().crewai_event_bus


@pytest.fixture
def event():
    """Makes events of a type of one's own."""

    class Inspected(crewai().BaseEvent):
        type: str = "inspected"
        verdict: str = "fine"

    return Inspected


def test_the_plugin_is_active_only_if_requested(either_way, request):
    heard = []
    if either_way is not None:
        either_way.on(crewai().BaseEvent, heard.append)
    crew("a").kickoff()
    assert bool(heard) == (either_way is not None) == (MODES[0] not in request.node.name)


# Listeners


def test_a_listener_receives_the_events_of_a_kickoff(bus):
    heard = []

    class Listener(crewai().BaseEventListener):
        def setup_listeners(self, crewai_event_bus):
            @crewai_event_bus.on(crewai().CrewKickoffStartedEvent)
            def on_started(source, event):
                heard.append(("started", source, event.crew_name, event.inputs))

            @crewai_event_bus.on(crewai().AgentExecutionCompletedEvent)
            def on_agent(source, event):
                heard.append(("agent", source, event.agent.role, event.output))

            @crewai_event_bus.on(crewai().CrewKickoffCompletedEvent)
            def on_completed(source, event):
                heard.append(("completed", source, event.crew_name, event.output.raw))

    Listener()
    made = crew("a")
    made.kickoff(inputs={"topic": "tides"})
    assert bus.flush(TIMEOUT)
    (one,) = made.agents
    assert sorted(heard, key=lambda item: item[0]) == [
        ("agent", one, "writer of a", answer("a")),
        ("completed", made, "a", answer("a")),
        ("started", made, "a", {"topic": "tides"}),
    ]


def test_sync_and_async_handlers_are_called_despite_a_failing_one(bus, capsys):
    heard, printed = set(), []

    @bus.on(crewai().TaskCompletedEvent)
    def fails(source, event):
        raise ValueError("a handler of the test")

    @bus.on(crewai().TaskCompletedEvent)
    def sync(source, event):
        heard.add(("sync", source.name, event.output.raw))

    @bus.on(crewai().TaskCompletedEvent)
    async def later(source, event):
        await asyncio.sleep(0)
        heard.add(("async", source.name, event.output.raw))

    def failure_is_told():
        printed.append(capsys.readouterr().out)
        return "a handler of the test" in "".join(printed)

    assert crew("a").kickoff().raw == answer("a")
    until(failure_is_told)  # crewAI's flush does not wait for sync handlers where there are async ones too
    until(lambda: len(heard) == 2)
    assert heard == {("sync", "a", answer("a")), ("async", "a", answer("a"))}


def test_a_handler_that_takes_three_is_given_the_state(bus):
    states = []

    @bus.on(crewai().TaskCompletedEvent)
    def sync(source, event, state):
        states.append(state)

    @bus.on(crewai().TaskCompletedEvent)
    async def later(source, event, state):
        states.append(state)

    made = crew("a")
    made.kickoff()
    until(lambda: len(states) == 2)
    assert [type(state) for state in states] == 2 * [crewai().RuntimeState]
    assert all(made in state.root for state in states)


def test_handlers_of_chunks_are_called_in_order_in_the_emitters_thread(bus):
    heard = []

    @bus.on(crewai().LLMStreamChunkEvent)
    def hear(source, event):
        heard.append((event.chunk, threading.current_thread()))

    assert llm(stream=True).call("RUN=a") == "".join(pieces("a"))
    assert heard == [(piece, threading.current_thread()) for piece in pieces("a")]


def test_scoped_handlers_come_and_go(event):
    bus, heard = crewai().crewai_event_bus, []

    def outside(source, event):
        heard.append("outside")

    def inside(source, event):
        heard.append("inside")

    with listening(event, to=outside):
        with bus.scoped_handlers():
            bus.on(event)(inside)
            bus.emit(None, event()).result(TIMEOUT)
        bus.emit(None, event()).result(TIMEOUT)
    assert heard == ["inside", "outside"]


def test_handlers_registered_with_a_call_are_unregistered_with_another(bus, event):
    heard = []

    def hear(source, event):
        heard.append(event.verdict)

    bus.register_handler(event, hear)
    bus.emit(None, event(verdict="once")).result(TIMEOUT)
    bus.off(event, hear)
    assert bus.emit(None, event(verdict="twice")) is None
    assert heard == ["once"]


# Dependencies


@pytest.mark.parametrize("kind", ["sync", "async", "mixed"])
def test_a_handler_comes_after_those_that_it_depends_on(bus, event, kind):
    heard = []

    def handler(name, sync):
        def hear(source, event):
            heard.append(name)

        async def hear_async(source, event):
            await asyncio.sleep(0)
            heard.append(name)

        return hear if sync else hear_async

    depends = crewai().Depends
    first, second = handler("first", kind != "async"), handler("second", kind == "sync")
    last = handler("last", kind != "async")
    bus.on(event, depends_on=[depends(first), depends(second)])(last)
    bus.on(event, depends_on=depends(first))(second)
    bus.on(event)(first)
    bus.validate_dependencies()
    for _ in range(3):
        bus.emit(None, event()).result(TIMEOUT)
    assert heard == 3 * ["first", "second", "last"]


def test_a_cycle_of_dependencies_is_rejected(bus, event):
    def one(source, event):
        """Depends on the other."""

    def other(source, event):
        """Depends on the one."""

    depends = crewai().Depends
    bus.on(event, depends_on=depends(other))(one)
    bus.on(event, depends_on=depends(one))(other)
    with pytest.raises(crewai().CircularDependencyError):
        bus.validate_dependencies()


# Emitting


def test_a_custom_event_reaches_only_its_handlers(bus, event):
    heard = []

    class Doubted(event):
        type: str = "doubted"

    @bus.on(event)
    def hear(source, event):
        heard.append((source, event.verdict))

    assert bus.emit("the inspector", event(verdict="bad")).result(TIMEOUT) is None
    assert bus.emit("the inspector", Doubted()) is None
    assert heard == [("the inspector", "bad")]


def test_aemit_awaits_only_the_async_handlers(bus, event):
    heard = []

    @bus.on(event)
    def sync(source, event):
        heard.append("sync")

    @bus.on(event)
    async def later(source, event):
        await asyncio.sleep(0)
        heard.append("async")

    asyncio.run(bus.aemit(None, event()))
    assert heard == ["async"]


def test_handlers_see_the_emitters_context(bus, event):
    tenant, seen = ContextVar("tenant", default=None), []

    @bus.on(event)
    def hear(source, event):
        seen.append(tenant.get())

    token = tenant.set("acme")
    bus.emit(None, event()).result(TIMEOUT)
    tenant.reset(token)
    bus.emit(None, event()).result(TIMEOUT)
    assert seen == ["acme", None]


def test_a_replayed_event_is_dispatched_as_it_was(bus, event):
    heard = []

    @bus.on(event)
    def hear(source, event):
        heard.append((event.event_id, event.emission_sequence, crewai().is_replaying()))

    emitted = event()
    bus.emit(None, emitted).result(TIMEOUT)
    bus.replay(None, emitted).result(TIMEOUT)
    assert heard == [
        (emitted.event_id, emitted.emission_sequence, False),
        (emitted.event_id, emitted.emission_sequence, True),
    ]


def test_flush_returns_when_handlers_have_returned(bus, event):
    gate, heard = threading.Event(), []

    @bus.on(event)
    def hear(source, event):
        gate.wait(TIMEOUT)
        heard.append(event.verdict)

    bus.emit(None, event())
    assert not bus.flush(timeout=0)
    gate.set()
    assert bus.flush(TIMEOUT)
    assert heard == ["fine"]


# What crewAI stamps events with


def test_events_are_stamped_with_their_order_and_their_relations():
    by_type = {}
    kinds = [
        crewai().CrewKickoffStartedEvent, crewai().TaskStartedEvent, crewai().LLMCallStartedEvent,
        crewai().LLMCallCompletedEvent, crewai().TaskCompletedEvent, crewai().CrewKickoffCompletedEvent,
    ]  # fmt: skip
    with listening(*kinds) as heard:
        crew("a").kickoff()
    by_type = {type(event): event for event in heard}
    kickoff, task, call, called, done, finished = (by_type[kind] for kind in kinds)
    order = [event.emission_sequence for event in (kickoff, task, call, called, done, finished)]
    assert order == sorted(set(order))
    assert kickoff.parent_event_id is None
    assert task.parent_event_id == kickoff.event_id
    assert called.started_event_id == call.event_id
    assert done.started_event_id == task.event_id
    assert finished.started_event_id == kickoff.event_id
    assert (task.task_name, call.agent_role) == ("a", "writer of a")


def test_a_sink_of_the_context_sees_each_event_in_order():
    seen = []
    token = crewai().add_stream_sink(lambda source, event: seen.append(event))
    try:
        made = crew("a")
        made.agents[0].llm.stream = True
        made.kickoff()
    finally:
        crewai().reset_stream_sinks(token)
    numbers = [event.emission_sequence for event in seen if event.type != "default_env"]  # once in a process
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert sum(event.type == "llm_stream_chunk" for event in seen) == 1 + CHUNKS
    count = len(seen)
    crew("b").kickoff()
    assert len(seen) == count
