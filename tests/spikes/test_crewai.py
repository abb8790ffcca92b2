"""A spike on crewAI 1.15: kickoffs as runs, its events as they are, and the streams of concurrent kickoffs apart."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from helpers import TIMEOUT, quiet_bus

import crewbus
from crewbus import Chunk, RunCancelled, RunFinished, RunStarted, StreamOptions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")

CHUNKS = 5
"""How many tagged chunks the model server answers with, after "Final Answer: "."""


@pytest.fixture
def bus(crewai):
    """A bus that gets what crewAI emits."""
    with installed(crewai, crewai.Adapter) as bus:
        yield bus


@pytest.fixture
def calling_bus(crewai):
    """A bus that gets what crewAI emits, the calls of models as calls."""
    with installed(crewai, crewai.CallingAdapter) as bus:
        yield bus


@contextmanager
def installed(crewai, kind):
    with quiet_bus() as bus:
        adapter = kind(bus)
        adapter.install()
        try:
            yield bus
        finally:
            adapter.uninstall()
            assert crewai.bus.flush(TIMEOUT)


@pytest.fixture
def crew(crewai, model):
    """Makes a crew whose answers bear its name: ``tasks`` of them, each by its own agent, all but the last async."""

    def task(tag, prompt, in_thread):
        llm = crewai.LLM(model="openai/fake", base_url=model, api_key="none", stream=True)
        agent = crewai.Agent(role=f"writer of {tag}", goal="to write", backstory="It wrote.", llm=llm)
        return crewai.Task(
            description=f"RUN={tag} {prompt}", expected_output="a text", agent=agent, async_execution=in_thread
        )

    def make(tag, tasks=1, prompt=""):
        made = [task(tag, prompt, in_thread=number < tasks) for number in range(1, tasks + 1)]
        return crewai.Crew(name=tag, agents=[each.agent for each in made], tasks=made)

    return make


def answer(tag, chunks=CHUNKS):
    """What the model server streams for a tag."""
    return ["Final Answer: ", *(f"{tag}:{number} " for number in range(chunks))]


def texts(frames):
    return [frame.event.text for frame in frames if isinstance(frame.event, Chunk)]


def consumed(stream):
    """All frames of a stream, and its result."""
    with stream:
        return list(stream), stream.result(TIMEOUT)


async def consumed_async(stream):
    async with stream:
        return [frame async for frame in stream], await stream.aresult()


def test_a_kickoff_is_a_run(crewai, bus, crew):
    heard, started, ended = [], [], []
    bus.on(crewai.BaseEvent, heard.append)
    bus.on(RunStarted, started.append)
    bus.on(crewbus.RunEnded, ended.append)
    made = crew("alone")
    made.kickoff()
    (start,) = started
    (end,) = ended
    assert start.event.name == "alone"
    assert end.event == RunFinished()
    assert {(e.run_id, e.parent) for e in heard} == {(start.run_id, start.id)}
    kinds = [e.event.type for e in heard if e.event.type != "default_env"]  # which is emitted once in a process
    assert (kinds[0], kinds[-1]) == ("crew_kickoff_started", "crew_kickoff_completed")
    assert kinds.count("llm_stream_chunk") == 1 + CHUNKS
    assert [e.source for e in heard if e.event.type == "crew_kickoff_started"] == [made]


def test_events_arrive_in_the_order_in_which_crewai_emits_them(crewai, bus, crew):
    heard = []
    bus.on(crewai.BaseEvent, heard.append)
    crew("ordered").kickoff()
    stamped = [e.event.emission_sequence for e in heard if e.event.type != "default_env"]
    assert stamped == list(range(1, len(stamped) + 1))
    numbers = [e.seq for e in heard]
    assert numbers == sorted(set(numbers))


def test_a_type_defined_after_installation_arrives_as_it_is(crewai, bus):
    heard = []
    bus.on(crewai.BaseEvent, heard.append)

    class Inspected(crewai.BaseEvent):
        type: str = "inspected"
        verdict: str

    class InspectedTwice(Inspected):
        type: str = "inspected_twice"

    with bus.run(record=True) as run:
        for event in (Inspected(verdict="fine"), InspectedTwice(verdict="finer")):
            crewai.bus.emit("the inspector", event)
    assert [(type(e.event), e.event.verdict, e.source) for e in heard] == [
        (Inspected, "fine", "the inspector"),
        (InspectedTwice, "finer", "the inspector"),
    ]
    back = [e for e in bus.record_of(run.id) if isinstance(e.event, Inspected)]
    assert [(e.event, e.source) for e in back] == [(e.event, e.source) for e in heard]


def test_the_streams_of_concurrent_kickoffs_are_apart(bus, crew):
    tags = [f"crew-{number}" for number in range(6)]
    streams = [bus.stream(crew(tag).kickoff) for tag in tags]
    with ThreadPoolExecutor(len(tags)) as consumers:
        for tag, (frames, output) in zip(tags, consumers.map(consumed, streams), strict=True):
            assert texts(frames) == answer(tag)
            assert frames[-1].event == RunFinished()
            assert output.raw == "".join(answer(tag)[1:]).strip()


@pytest.mark.parametrize("method", ["kickoff", "kickoff_async", "akickoff"])
def test_the_streams_of_concurrent_kickoffs_are_apart_on_a_loop(bus, crew, method):
    tags = [f"{method}-{number}" for number in range(4)]

    async def main():
        streams = [bus.stream(getattr(crew(tag), method)) for tag in tags]
        return await asyncio.gather(*map(consumed_async, streams))

    for tag, (frames, output) in zip(tags, asyncio.run(main()), strict=True):
        assert texts(frames) == answer(tag)
        assert output.raw == "".join(answer(tag)[1:]).strip()


def test_nested_kickoffs_are_nested_runs(crewai, bus, crew):
    class Desk(crewai.Flow):
        @crewai.start()
        def news(self):
            return crew("news").kickoff().raw

        @crewai.start()
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


def test_a_recorded_kickoff_is_read_back(crewai, bus, crew):
    heard = {}
    bus.on(crewai.BaseEvent, lambda e: heard.update({e.seq: e}))
    stream = bus.stream(crew("kept").kickoff, options=StreamOptions(record=True))
    consumed(stream)
    record = list(bus.record_of(stream.run_id))
    assert [e.seq for e in record] == list(range(len(record)))
    assert texts(record) == answer("kept")
    for envelope in record:
        if envelope.seq in heard:
            event = heard.pop(envelope.seq).event
            assert type(envelope.event) is type(event)
            for field in crewai.BaseEvent.model_fields:
                assert getattr(envelope.event, field) == getattr(event, field)
    assert not heard


def test_what_json_cannot_hold_does_not_stop_a_recorded_kickoff(crewai, bus):
    class Handed(crewai.BaseEvent):
        type: str = "handed"
        item: object = None

    with bus.run(record=True) as run:
        crewai.bus.emit(None, Handed(item=threading.Lock()))
        crewai.bus.emit(None, Handed(item=42))
    items = [e.event.item for e in bus.record_of(run.id) if isinstance(e.event, Handed)]
    assert items[0].startswith("<unlocked _thread.lock")
    assert items[1] == 42


def test_the_run_is_in_scope_wherever_crewai_emits_or_handles(crewai, bus, crew):
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
        (crewai.task_events.TaskCompletedEvent, handler),
        (crewai.llm_events.LLMStreamChunkEvent, chunk_handler),
        (crewai.llm_events.LLMCallCompletedEvent, async_handler),
    ]
    bus.on(crewai.BaseEvent, lambda envelope: see("emission"))
    for event_type, function in subscribed:
        crewai.bus.register_handler(event_type, function)
    try:
        frames, _ = consumed(bus.stream(crew("scoped", tasks=3).kickoff))  # two tasks in threads of crewAI
        assert crewai.bus.flush(TIMEOUT)
    finally:
        for event_type, function in subscribed:
            crewai.bus.off(event_type, function)
    assert len(texts(frames)) == 3 * len(answer("scoped"))
    places = ["emission", "handler in the pool", "handler of chunks", "handler on the loop"]
    assert seen == {place: {"scoped"} for place in places}


def test_crewais_own_stream_goes_on_and_is_a_run_too(bus, crew):
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


def test_callbacks_get_the_model_calls_of_their_own_kickoff(calling_bus, crew):
    tags = [f"called-{number}" for number in range(4)]

    def kick_off(tag):
        heard = []
        with calling_bus.callbacks(heard.append):
            crew(tag).kickoff()
        return heard

    with ThreadPoolExecutor(len(tags)) as threads:
        for tag, heard in zip(tags, threads.map(kick_off, tags), strict=True):
            assert type(heard[0].event) is crewbus.CallStarted
            assert texts(heard) == answer(tag)
            end = heard[-1].event
            assert (end.output, end.usage["completion_tokens"]) == ("".join(answer(tag)), 2 + CHUNKS)


def test_what_a_failed_attempt_of_an_agent_streamed_is_taken_back(crewai, calling_bus, crew):
    made = crew("again", prompt="FAIL=3")
    (task,) = made.tasks
    calling_bus.on(crewai.llm_events.LLMCallFailedEvent, lambda envelope: setattr(task, "description", "RUN=again"))
    stream = calling_bus.stream(made.kickoff)
    frames, _ = consumed(stream)
    assert texts(frames) == answer("again")[:3] + answer("again")
    assert [f.attempt for f in frames if isinstance(f.event, Chunk)] == [1] * 3 + [2] * len(answer("again"))
    assert stream.text() == "".join(answer("again"))


def test_a_model_call_that_is_under_way_ends_with_its_kickoff(calling_bus, crew):
    heard = []
    made = crew("long", prompt="CHUNKS=500 DELAY=0.02")
    with calling_bus.callbacks(heard.append), calling_bus.stream(made.kickoff) as stream:
        next(iter(stream))
    assert isinstance(heard[-1].event, crewbus.CallCancelled)


def test_uninstalling_puts_everything_back(crewai):
    def changed():
        return [
            crewai.Crew.kickoff,
            crewai.Crew.akickoff,
            crewai.flow_class.kickoff_async,
            crewai.Task._execute_task_async,
            crewai.bus_class._prepare_event,
        ]

    before = changed()
    with quiet_bus() as bus:
        adapter = crewai.Adapter(bus)
        adapter.install()
        assert not any(now is then for now, then in zip(changed(), before, strict=True))
        adapter.uninstall()
    assert all(now is then for now, then in zip(changed(), before, strict=True))
