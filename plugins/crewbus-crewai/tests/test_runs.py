"""Kickoffs as runs: their events, separate streams, model calls and retractions."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
from crewai import Agent, Crew
from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallCompletedEvent, LLMCallFailedEvent, LLMStreamChunkEvent
from crewai.events.types.task_events import TaskCompletedEvent
from crewai.flow.flow import Flow, start
from crews import CHUNKS, answer, consumed, consumed_async, installed, make_crew, make_llm, texts
from helpers import TIMEOUT
from scripted import Scripted

import crewbus
from crewbus import Chunk, RunCancelled, RunFinished, RunStarted, StreamOptions
from crewbus_crewai.patched.events import OF_THE_PROCESS


def test_a_kickoff_is_a_run(bus, crew):
    heard, started, ended = [], [], []
    bus.on(BaseEvent, heard.append)
    bus.on(RunStarted, started.append)
    bus.on(crewbus.RunEnded, ended.append)
    made = crew("alone")
    made.kickoff()
    (start,) = started
    (end,) = ended
    assert start.event.name == "alone"
    assert end.event == RunFinished()
    kinds = [e.event.type for e in heard if e.run_id == start.run_id]
    assert [e.event.type for e in heard if e.run_id is None] in (
        [],
        ["default_env"],
    )  # of the environment, emitted once
    assert (kinds[0], kinds[-1]) == ("crew_kickoff_started", "crew_kickoff_completed")
    assert kinds.count("llm_stream_chunk") == 1 + CHUNKS
    assert [e.source for e in heard if e.event.type == "crew_kickoff_started"] == [made]


def test_events_have_the_order_in_which_crewai_emits_them(bus, crew):
    heard = []
    bus.on(BaseEvent, heard.append)
    crew("ordered").kickoff()
    stamped = [e.event.emission_sequence for e in heard if e.run_id is not None]
    assert stamped == list(range(stamped[0], stamped[0] + len(stamped)))
    numbers = [e.seq for e in heard]
    assert numbers == sorted(set(numbers))


def test_an_event_class_defined_after_installation_is_received(bus):
    heard = []
    bus.on(BaseEvent, heard.append)

    class Inspected(BaseEvent):
        type: str = "inspected"
        verdict: str

    class InspectedTwice(Inspected):
        type: str = "inspected_twice"

    with bus.run(record=True) as run:
        for event in (Inspected(verdict="fine"), InspectedTwice(verdict="finer")):
            crewai_event_bus.emit("the inspector", event)
    assert [(type(e.event), e.event.verdict, e.source) for e in heard] == [
        (Inspected, "fine", "the inspector"),
        (InspectedTwice, "finer", "the inspector"),
    ]
    back = [e for e in bus.record_of(run.id) if isinstance(e.event, Inspected)]
    assert [(e.event, e.source) for e in back] == [(e.event, e.source) for e in heard]


def test_concurrent_kickoffs_have_separate_streams(bus, crew):
    tags = [f"crew-{number}" for number in range(6)]
    streams = [bus.stream(crew(tag).kickoff) for tag in tags]
    with ThreadPoolExecutor(len(tags)) as consumers:
        for tag, (frames, output) in zip(tags, consumers.map(consumed, streams), strict=True):
            assert texts(frames) == answer(tag)
            assert frames[-1].event == RunFinished()
            assert output.raw == "".join(answer(tag)[1:]).strip()


@pytest.mark.parametrize("method", ["kickoff", "kickoff_async", "akickoff"])
def test_concurrent_kickoffs_on_a_loop_have_separate_streams(bus, crew, method):
    tags = [f"{method}-{number}" for number in range(4)]

    async def main():
        streams = [bus.stream(getattr(crew(tag), method)) for tag in tags]
        return await asyncio.gather(*map(consumed_async, streams))

    for tag, (frames, output) in zip(tags, asyncio.run(main()), strict=True):
        assert texts(frames) == answer(tag)
        assert output.raw == "".join(answer(tag)[1:]).strip()


def test_nested_kickoffs_are_nested_runs(bus, crew):
    class Desk(Flow):
        @start()
        def news(self):
            return crew("news").kickoff().raw

        @start()
        async def sports(self):
            return (await crew("sports").akickoff()).raw

    started = {}
    bus.on(RunStarted, lambda e: started.update({e.event.name: e}))
    frames, _ = consumed(bus.stream(Desk().kickoff, options=StreamOptions(name="stream")))
    assert set(started) == {"stream", "Desk", "news", "sports"}
    assert started["Desk"].event.parent_run == started["stream"].run_id
    for name in ("news", "sports"):
        assert started[name].event.parent_run == started["Desk"].run_id
        assert texts(f for f in frames if f.run_id == started[name].run_id) == answer(name)
    assert len(texts(frames)) == 2 * len(answer("either"))


def test_a_recorded_kickoff_is_read_back(bus, crew):
    heard = {}
    bus.on(BaseEvent, lambda e: heard.update({e.seq: e}) if e.run_id is not None else None)
    stream = bus.stream(crew("kept").kickoff, options=StreamOptions(record=True))
    consumed(stream)
    record = list(bus.record_of(stream.run_id))
    assert [e.seq for e in record] == list(range(len(record)))
    assert texts(record) == answer("kept")
    for envelope in record:
        if envelope.seq in heard:
            event = heard.pop(envelope.seq).event
            assert type(envelope.event) is type(event)
            for field in BaseEvent.model_fields:
                assert getattr(envelope.event, field) == getattr(event, field)
    assert not heard


def test_values_that_json_cannot_represent_do_not_stop_a_recorded_kickoff(bus):
    class Handed(BaseEvent):
        type: str = "handed"
        item: object = None

    with bus.run(record=True) as run:
        crewai_event_bus.emit(None, Handed(item=threading.Lock()))
        crewai_event_bus.emit(None, Handed(item=42))
    items = [e.event.item for e in bus.record_of(run.id) if isinstance(e.event, Handed)]
    assert items[0].startswith("<unlocked _thread.lock")
    assert items[1] == 42


def test_the_run_is_in_scope_wherever_crewai_emits_or_handles(bus, crew):
    seen = {}

    def see(place):
        run = crewbus.current_run(bus)
        seen.setdefault(place, set()).add(run.name if run is not None else None)

    def handler(source, event):
        see("handler in the pool")

    def chunk_handler(source, event):
        see("handler of chunks")

    async def async_handler(source, event):
        see("handler on the loop")

    subscribed = [
        (TaskCompletedEvent, handler),
        (LLMStreamChunkEvent, chunk_handler),
        (LLMCallCompletedEvent, async_handler),
    ]
    # Events of the process are emitted once, outside any run.
    bus.on(BaseEvent, lambda envelope: isinstance(envelope.event, OF_THE_PROCESS) or see("emission"))
    for event_type, function in subscribed:
        crewai_event_bus.register_handler(event_type, function)
    try:
        frames, _ = consumed(bus.stream(crew("scoped", tasks=3).kickoff))  # two tasks in threads of crewAI
        assert crewai_event_bus.flush(TIMEOUT)
    finally:
        for event_type, function in subscribed:
            crewai_event_bus.off(event_type, function)
    assert len(texts(frames)) == 3 * len(answer("scoped"))
    places = ["emission", "handler in the pool", "handler of chunks", "handler on the loop"]
    assert seen == {place: {"scoped"} for place in places}


def test_crewais_own_stream_is_a_run(bus, crew):
    started = []
    bus.on(RunStarted, started.append)

    def show():
        made = crew("shown")
        made.stream = True
        return [chunk.content for chunk in made.kickoff()]

    frames, contents = consumed(bus.stream(show, options=StreamOptions(name="ours")))
    assert contents == texts(frames) == answer("shown")
    assert [e.event.name for e in started] == ["ours", "shown"]


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("method", ["kickoff", "akickoff"])
def test_leaving_a_stream_early_ends_the_kickoff(bus, crew, method, tasks):
    ended = []
    bus.on(crewbus.RunEnded, ended.append)
    made = crew("long", tasks=tasks, prompt="CHUNKS=500 DELAY=0.02")
    with bus.stream(getattr(made, method), options=StreamOptions(name="ours", grace=TIMEOUT)) as stream:
        next(iter(stream))
    assert [type(e.event) for e in ended] == [RunCancelled, RunCancelled]
    assert bus.runs == []


def test_a_failure_of_the_model_ends_the_run_and_the_stream(bus, crew):
    ended = []
    bus.on(crewbus.RunEnded, ended.append)
    made = crew("cut", prompt="FAIL=2")
    made.agents[0].max_retry_limit = 0
    stream = bus.stream(made.kickoff)
    with pytest.raises(Exception, match="peer closed connection"):
        consumed(stream)
    assert [type(e.event) for e in ended] == [crewbus.RunFailed, crewbus.RunFailed]
    assert stream.run.state == "failed"


def test_callbacks_get_the_model_calls_of_their_own_kickoff(bus, crew):
    tags = [f"called-{number}" for number in range(4)]

    def kick_off(tag):
        heard = []
        with bus.callbacks(heard.append):
            crew(tag).kickoff()
        return heard

    with ThreadPoolExecutor(len(tags)) as threads:
        for tag, heard in zip(tags, threads.map(kick_off, tags), strict=True):
            assert type(heard[0].event) is crewbus.CallStarted
            assert texts(heard) == answer(tag)
            end = heard[-1].event
            assert (end.output, end.usage["completion_tokens"]) == ("".join(answer(tag)), 2 + CHUNKS)
            assert end.usage["output_tokens"] == 2 + CHUNKS


def test_the_chunks_of_a_failed_attempt_are_retracted(bus, crew):
    made = crew("again", prompt="FAIL=3")
    (task,) = made.tasks
    bus.on(LLMCallFailedEvent, lambda envelope: setattr(task, "description", "RUN=again"))
    stream = bus.stream(made.kickoff)
    frames, _ = consumed(stream)
    assert texts(frames) == answer("again")[:3] + answer("again")
    assert [f.attempt for f in frames if isinstance(f.event, Chunk)] == [1] * 3 + [2] * len(answer("again"))
    assert stream.text() == "".join(answer("again"))


def test_an_open_model_call_ends_with_its_kickoff(bus, crew):
    heard = []
    made = crew("long", prompt="CHUNKS=500 DELAY=0.02")
    with bus.callbacks(heard.append), bus.stream(made.kickoff) as stream:
        next(iter(stream))
    assert isinstance(heard[-1].event, crewbus.CallCancelled)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Crew, "akickoff"),
        (Agent, "kickoff_async"),
        (Agent, "aexecute_task"),
        (Scripted, "acall"),
    ],
)
def test_an_abandoned_coroutine_may_be_closed_in_another_context(monkeypatch, owner, name):
    async def wait(*args):
        await asyncio.sleep(0)

    monkeypatch.setattr(owner, name, wait)
    made = make_crew(None, "left", llm=Scripted.of())
    entity = {Crew: made, Agent: made.agents[0], Scripted: made.agents[0].llm}[owner]
    with installed() as bus, bus.run():
        left = getattr(entity, name)("?")
        copy_context().run(left.send, None)
        left.close()


def test_an_agent_kicked_off_is_a_run(bus, crew):
    started = []
    bus.on(RunStarted, started.append)
    (agent,) = crew("alone").agents
    frames, output = consumed(bus.stream(agent.kickoff, "RUN=alone go on", options=StreamOptions(name="ours")))
    assert [(e.event.name, e.event.tags) for e in started] == [
        ("ours", {}),
        ("writer of alone", {"crewai": "agent"}),
    ]
    assert texts(frames) == answer("alone")
    assert output.raw == "".join(answer("alone")[1:]).strip()


def test_an_agent_kicked_off_on_a_loop_is_a_run(bus, crew):
    started = []
    bus.on(RunStarted, started.append)
    (agent,) = crew("loop").agents

    async def main():
        frames, _ = await consumed_async(bus.stream(agent.kickoff_async, "RUN=loop go on"))
        await agent.kickoff("RUN=loop go on")  # which is a coroutine here
        return frames

    assert texts(asyncio.run(main())) == answer("loop")
    assert [e.event.name for e in started].count("writer of loop") == 2


def test_a_kickoff_for_each_input_is_a_run_each(bus, crew):
    started = []
    bus.on(RunStarted, started.append)
    made = crew("each", prompt="{what}")
    with bus.run("around") as run:
        made.kickoff_for_each([{"what": "one"}, {"what": "two"}])
    assert [(e.event.name, e.event.parent_run) for e in started] == [("around", None), *[("each", run.id)] * 2]


def test_a_model_call_outside_any_run_reaches_its_callbacks(bus, model):
    heard = []
    with bus.callbacks(heard.append):
        make_llm(model).call("RUN=bare say it")
    assert texts(heard) == answer("bare")
    assert (type(heard[0].event), type(heard[-1].event)) == (crewbus.CallStarted, crewbus.CallFinished)
    assert {envelope.run_id for envelope in heard} == {None}


def test_an_event_after_the_end_of_its_run_belongs_to_the_nearest_live_run(bus):
    class Late(BaseEvent):
        type: str = "late"

    heard = []
    bus.on(Late, heard.append)
    with bus.run("outer") as outer:
        with bus.run("inner"):
            inside = copy_context()
        inside.run(crewai_event_bus.emit, None, Late())
    inside.run(crewai_event_bus.emit, None, Late())
    assert [envelope.run_id for envelope in heard] == [outer.id, None]


def test_errors_in_reporting_do_not_stop_a_kickoff(crew, caplog):
    class Refuser:
        @crewbus.hookimpl
        def crewbus_redact(self, event):
            if isinstance(event, BaseEvent | Chunk):
                raise ValueError("can't say whether this may be seen")

    with installed(plugins=[Refuser()]) as bus:
        assert crew("refused").kickoff().raw.startswith("refused:0")
        assert bus.runs == []
    assert "crewbus-crewai: emitting an event of crewAI failed; crewAI continues" in caplog.messages
