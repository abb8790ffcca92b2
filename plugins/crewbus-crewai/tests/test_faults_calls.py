"""Faults of crewAI's callbacks, handlers and tools: present without the plugin, fixed with it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import litellm
import pytest
from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.flow.flow import Flow, start
from crewai.tools import tool
from crewai.tools.structured_tool import CrewStructuredTool
from crews import make_crew, make_llm
from helpers import TIMEOUT
from lifecycle_helpers import until
from litellm.integrations.custom_logger import CustomLogger

import crewbus
from crewbus_crewai.patched import runtime_state


class Heard(CustomLogger):
    """What litellm passes it: the RUN= of each request."""

    def __init__(self):
        super().__init__()
        self.heard = []
        self.received = asyncio.Event()

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.heard.append(prompt_of(kwargs))

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.heard.append(prompt_of(kwargs))
        self.received.set()

    def log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.heard.append("failed")


def prompt_of(kwargs):
    text = "\n".join(str(message["content"]) for message in kwargs["messages"])
    return text.partition("RUN=")[2].split()[0]


@pytest.fixture(autouse=True)
def own_lists(monkeypatch):
    """litellm's global lists of callbacks, to be filled; as they were, afterwards."""
    for name in vars(litellm).copy():
        if name == "callbacks" or name.endswith("_callback"):
            monkeypatch.setattr(litellm, name, [])


def through_litellm(model, **options):
    return make_llm(model, is_litellm=True, stream=False, **options)


# litellm's callbacks


def test_callbacks_of_two_models_do_not_replace_each_other(active, model):
    first, second = Heard(), Heard()
    mine, _ = through_litellm(model, callbacks=[first]), through_litellm(model, callbacks=[second])
    mine.call("RUN=mine say it")
    until(lambda: first.heard or second.heard)
    assert (first.heard, second.heard) == ((["mine"], []) if active else ([], ["mine"]))


def test_concurrent_calls_each_reach_their_own_callbacks(bus, model):
    owners = [Heard() for _ in range(8)]

    def work(number):
        llm = through_litellm(model, callbacks=[owners[number]])
        for _ in range(25):
            llm.call(f"RUN=owner-{number} say it")

    with ThreadPoolExecutor(len(owners)) as threads:
        list(threads.map(work, range(len(owners))))
    until(lambda: sum(len(owner.heard) for owner in owners) >= 200)
    assert [owner.heard for owner in owners] == [[f"owner-{number}"] * 25 for number in range(8)]


def test_callbacks_of_a_model_that_an_agent_uses_are_called(active, model):
    mine, seen = Heard(), Heard()
    llm = through_litellm(model, callbacks=[mine])
    crew = make_crew(model, "used", llm=llm)
    for _ in range(5):
        crew.kickoff()
    llm.call("RUN=last say it", callbacks=[seen])  # those that come later have all been heard before it
    until(lambda: "last" in seen.heard)
    until(lambda: len(mine.heard) == (6 if active else 0))
    assert mine.heard.count("used") == (5 if active else 0)


def test_the_callbacks_of_a_call_receive_only_that_call(bus, model):
    mine, given = Heard(), Heard()
    llm = through_litellm(model, callbacks=[mine])
    llm.call("RUN=one say it", callbacks=[given])
    llm.call("RUN=two say it")
    until(lambda: len(mine.heard) == 2 and given.heard)
    assert (mine.heard, given.heard) == (["one", "two"], ["one"])
    assert litellm.callbacks == litellm.success_callback == []


@pytest.mark.parametrize("stream", [False, True])
def test_callbacks_on_a_loop(bus, model, stream):
    mine = Heard()
    llm = make_llm(model, is_litellm=True, stream=stream, callbacks=[mine])

    async def main():
        await llm.acall("RUN=loop say it")
        await asyncio.wait_for(mine.received.wait(), TIMEOUT)

    asyncio.run(main())
    assert mine.heard == ["loop"]


def test_callbacks_of_a_failure(bus, model):
    mine = Heard()
    llm = through_litellm("http://127.0.0.1:9/v1", callbacks=[mine])
    with pytest.raises(litellm.InternalServerError):
        llm.call("RUN=ask say it")
    until(lambda: mine.heard)
    assert mine.heard == ["failed"]


# Handlers


class Numbered(BaseEvent):
    type: str = "numbered"
    number: int = 0


class Other(BaseEvent):
    type: str = "other"


def test_handlers_receive_events_in_order(bus):
    heard = []
    bus.on(Numbered, lambda envelope: heard.append(envelope.event.number))
    for number in range(2000):
        crewai_event_bus.emit(None, Numbered(number=number))
    assert heard == list(range(2000))


def test_crewais_own_handlers_may_hear_the_second_first():
    heard, second = [], threading.Event()

    def hear(source, event):
        assert event.number or second.wait(TIMEOUT)
        heard.append(event.number)
        second.set()

    with crewai_event_bus.scoped_handlers():
        crewai_event_bus.register_handler(Numbered, hear)
        for emitted in [crewai_event_bus.emit(None, Numbered(number=number)) for number in range(2)]:
            emitted.result(TIMEOUT)
    assert heard == [1, 0]


def test_blocked_handlers_starve_crewais_but_not_the_buss(bus):
    blocked, go = threading.Barrier(11), threading.Event()
    heard = []

    def block(source, event):
        blocked.wait(TIMEOUT)
        go.wait(TIMEOUT)

    def hear(source, event):
        heard.append("crewAI's")

    bus.on(Other, lambda envelope: heard.append("the bus's"))
    with crewai_event_bus.scoped_handlers():
        crewai_event_bus.register_handler(Numbered, block)
        crewai_event_bus.register_handler(Other, hear)
        for number in range(10):
            crewai_event_bus.emit(None, Numbered(number=number))
        blocked.wait(TIMEOUT)
        try:
            waiting = crewai_event_bus.emit(None, Other())
            assert heard == ["the bus's"]
            assert not waiting.done()
        finally:
            go.set()
        waiting.result(TIMEOUT)


def test_a_handler_registered_during_the_search_gets_the_state(bus, monkeypatch):
    seen, look = [], runtime_state._takes_state

    def hear(source, event):
        pass

    def hear_with_state(source, event, state):
        seen.append([type(node.event) for node in state.event_record.nodes.values()])

    def look_and_register(handler):
        found = look(handler)
        if handler is hear:  # as another thread does meanwhile
            crewai_event_bus.register_handler(Numbered, hear_with_state)
        return found

    class Small(Flow):
        @start()
        def begin(self):
            crewai_event_bus.register_handler(Other, hear)
            monkeypatch.setattr(runtime_state, "_takes_state", look_and_register)
            for number in range(2):
                crewai_event_bus.emit(None, Numbered(number=number)).result(TIMEOUT)

    with crewai_event_bus.scoped_handlers():
        Small().kickoff()
    assert Numbered in seen[-1]


class Stop(BaseException):
    pass


def test_a_raising_handler_does_not_affect_the_others(bus):
    handlers, crewais = [], []

    def make(heard):
        def hear(*_):
            heard.append(hear)
            if len(heard) == 1:
                raise Stop

        return hear

    for _ in range(5):
        bus.on(Other, make(handlers) if not handlers else lambda _: handlers.append(None))
    with crewai_event_bus.scoped_handlers():
        for _ in range(5):
            crewai_event_bus.register_handler(Numbered, make(crewais))
        with pytest.raises(Stop):
            crewai_event_bus.emit(None, Numbered()).result(TIMEOUT)
    with pytest.raises(Stop):
        crewai_event_bus.emit(None, Other())
    assert (len(handlers), len(crewais)) == (5, 1)


# Tools


def test_a_sync_tool_of_an_async_agent_sees_the_run(active):
    seen = []

    def look(what: str) -> str:
        """Look."""
        run = crewbus.current_run()
        seen.append(run.name if run is not None else None)
        return what

    made = CrewStructuredTool.from_function(look)
    with crewbus.Bus(entry_points=False) as bus:

        async def main():
            with bus.run("mine"):
                return await made.ainvoke({"what": "it"})

        assert asyncio.run(main()) == "it"
    assert seen == ["mine" if active else None]
    assert made.current_usage_count == 1


def test_async_tools_and_failures_work_as_unpatched(active):
    async def fail(what: str) -> str:
        """Fail."""
        raise ValueError(what)

    def fail_too(what: str) -> str:
        """Fail too."""
        raise ValueError(what)

    for function in (fail, fail_too):
        with pytest.raises(ValueError, match="it"):
            asyncio.run(CrewStructuredTool.from_function(function).ainvoke({"what": "it"}))


def test_a_tool_that_is_used_up_says_so(active):
    @tool("once")
    def once(what: str) -> str:
        """Look once."""
        return what

    once.max_usage_count = 1
    assert once.run(what="it") == "it"
    assert "usage limit" in str(once.run(what="it"))
