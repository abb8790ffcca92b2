"""Recorded kickoffs: checkpointed, resumed and forked, without repeating recorded calls."""

from __future__ import annotations

import asyncio
import contextlib

import crewai
import pytest
from crewai.events.types.task_events import TaskCompletedEvent
from crewai.flow.flow import Flow, listen, start
from crewai.tools import tool
from crewai.tools.structured_tool import ToolUsageLimitExceededError
from crews import consumed, installed, texts
from scripted import Scripted

import crewbus
from crewbus import StreamOptions


@pytest.fixture
def bus():
    """A bus that records, and gets crewAI's events."""
    with installed() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        yield bus


def final(text):
    return f"Thought: I know.\nFinal Answer: {text}"


def writers(llm, tasks=2, name="writers", at_once=False, **options):
    """A crew that does this many tasks, all with ``llm``: one after the other, or all but the last at once."""

    def task(number):
        tools = options.get("tools", [])
        agent = crewai.Agent(
            role="writer", goal="to write", backstory="It wrote.", llm=llm, max_retry_limit=0, tools=tools
        )
        return crewai.Task(
            description=f"part {number}",
            expected_output="a text",
            agent=agent,
            async_execution=at_once and number < tasks,
            callback=options.get("callback"),
        )

    made = [task(number) for number in range(1, tasks + 1)]
    return crewai.Crew(name=name, agents=[each.agent for each in made], tasks=made)


def keep(output):
    """Make a checkpoint after a task: a task's callback."""
    crewbus.current_run().checkpoint(f"after {output.raw}")


def fail(bus, kickoff, **options):
    """Kick off, and fail; the id of the run."""
    with pytest.raises(RuntimeError, match="the power went"):
        kickoff(**options)
    return bus.store.roots()[-1]


def test_a_failed_kickoff_resumes_without_repeating_calls(bus):
    llm = Scripted.of(final("one"), RuntimeError("the power went"))
    run_id = fail(bus, writers(llm).kickoff)
    assert bus.records.info(run_id).state == "failed"
    again = Scripted.of(final("two"))
    with bus.resume(run_id):
        output = writers(again).kickoff()
    assert [task.raw for task in output.tasks_output] == ["one", "two"]
    assert (len(llm.asked), len(again.asked)) == (2, 1)
    assert bus.records.info(run_id).state == "finished"
    assert len(bus.store.roots()) == 1


@pytest.mark.parametrize("method", ["akickoff", "kickoff_async"])
def test_a_failed_kickoff_resumes_on_a_loop(bus, method):
    llm = Scripted.of(final("one"), RuntimeError("the power went"))
    run_id = fail(bus, lambda: asyncio.run(getattr(writers(llm), method)()))
    again = Scripted.of(final("two"))

    async def resume():
        with bus.resume(run_id):
            return await getattr(writers(again), method)()

    assert [task.raw for task in asyncio.run(resume()).tasks_output] == ["one", "two"]
    assert len(again.asked) == 1


def test_a_resumed_stream_continues_where_it_ended(bus):
    class Telling(Scripted):
        def call(self, messages, *args, **kwargs):
            said = super().call(messages)
            crewbus.chunk(said.rpartition(": ")[2])
            return said

    stream = bus.stream(writers(Telling.of(final("one"), RuntimeError("the power went"))).kickoff)
    with pytest.raises(RuntimeError, match="the power went"):
        consumed(stream)
    run_id = stream.run_id
    resumed = bus.stream(writers(Telling.of(final("two"))).kickoff, options=StreamOptions(resume=run_id))
    frames, output = consumed(resumed)
    assert texts(frames) == ["two"]
    assert output.raw == "two"
    with bus.subscribe(run_id, after="start") as whole:
        assert texts(whole) == ["one", "two"]


def test_tools_are_not_used_again(bus):
    used = []

    def crew(*script):
        @tool("search")
        def search(what: str) -> str:
            """Search."""
            used.append(what)
            return f"found {what}"

        return writers(Scripted.of(*script), tasks=2, tools=[search])

    search_it = 'Thought: I look.\nAction: search\nAction Input: {"what": "tides"}'
    run_id = fail(bus, crew(search_it, final("one"), RuntimeError("the power went")).kickoff)
    assert used == ["tides"]
    with bus.resume(run_id):
        output = crew(final("two")).kickoff()
    assert [task.raw for task in output.tasks_output] == ["one", "two"]
    assert used == ["tides"]


@pytest.mark.parametrize(
    "use",
    [
        lambda search, what: search.run(what=what),
        lambda search, what: search.to_structured_tool().invoke({"what": what}),
        lambda search, what: asyncio.run(search.to_structured_tool().ainvoke({"what": what})),
    ],
    ids=["run", "invoke", "ainvoke"],
)
def test_recorded_uses_count_for_a_tools_maximum(bus, use):
    used = []

    def limited():
        @tool("search")
        def search(what: str) -> str:
            """Search."""
            used.append(what)
            return what

        search.max_usage_count = 1
        return search

    def cut():
        with bus.run("searching"):
            use(limited(), "tides")
            raise RuntimeError("the power went")

    with bus.resume(fail(bus, cut)):
        search = limited()
        assert use(search, "tides") == "tides"
        assert search.current_usage_count == 1
        with contextlib.suppress(ToolUsageLimitExceededError):
            use(search, "moons")
    assert used == ["tides"]


@pytest.mark.parametrize("native", [True, False])
def test_a_resumed_kickoff_does_not_exceed_a_tools_maximum(bus, native):
    class Calling(Scripted):
        def supports_function_calling(self):
            return native

    def look(what):
        arguments = f'{{"what": "{what}"}}'
        if native:
            return [{"id": what, "type": "function", "function": {"name": "search", "arguments": arguments}}]
        return f"Thought: I look.\nAction: search\nAction Input: {arguments}"

    def crew(*script):
        @tool("search")
        def search(what: str) -> str:
            """Search."""
            used.append(what)
            return f"found {what}"

        search.max_usage_count = 1
        return writers(Calling.of(*script), tasks=1, tools=[search])

    class Cut(BaseException):
        pass

    used = []
    with pytest.raises(Cut):
        crew(look("tides"), Cut()).kickoff()
    with bus.resume(bus.store.roots()[0]):
        assert crew(look("moons"), final("one")).kickoff().raw.endswith("one")
    assert used == ["tides"]


def test_a_failed_task_and_an_interrupted_one_continue(bus):
    class Cut(BaseException):
        pass

    def crew(*script):
        @tool("search")
        def search(what: str) -> str:
            """Search."""
            used.append(what)
            return f"found {what}"

        return writers(Scripted.of(*script), tasks=1, tools=[search])

    search_it = 'Thought: I look.\nAction: search\nAction Input: {"what": "tides"}'
    for end in (RuntimeError("the power went"), Cut()):
        used = []
        with pytest.raises(type(end)):
            crew(search_it, end).kickoff()
        with bus.resume(bus.store.roots()[-1]):
            assert crew(final("one")).kickoff().raw == "one"
        assert used == ["tides"]


def test_concurrent_tasks_each_continue_where_they_stopped(bus):
    class Halting(Scripted):
        """Answers each but one of its parts."""

        def call(self, messages, *args, **kwargs):
            text = messages[-1]["content"]
            self._asked.append(text)
            part = text.partition("part ")[2][0]
            if self._script and part in self._script:
                raise RuntimeError("the power went")
            return final(part)

    run_id = fail(bus, writers(Halting.of("4"), tasks=4, at_once=True).kickoff)
    again = Halting.of()
    with bus.resume(run_id):
        output = writers(again, tasks=4, at_once=True).kickoff()
    assert [task.raw for task in output.tasks_output] == ["1", "2", "3", "4"]
    assert len(again.asked) == 1


def test_a_flow_of_crews_continues_inside_the_interrupted_crew(bus):
    done = []

    class Paper(Flow):
        llm: object = None

        @start()
        def news(self):
            done.append("news")
            return writers(self.llm, name="news").kickoff().raw

        @listen(news)
        def sports(self, before):
            done.append("sports")
            return before + writers(self.llm, name="sports").kickoff().raw

    first = Scripted.of(final("n1"), final("n2"), final("s1"), RuntimeError("the power went"))
    run_id = fail(bus, Paper(llm=first).kickoff)
    again = Scripted.of(final("s2"))
    with bus.resume(run_id):
        assert Paper(llm=again).kickoff() == "n2s2"
    assert len(again.asked) == 1
    assert done == ["news", "sports"] * 2  # methods are run again: what they ask is not asked again


def test_a_kickoff_resumes_from_a_checkpoint(bus):
    bus.enable_recording(bus.store, checkpoint_on=(TaskCompletedEvent,))
    run_id = fail(
        bus, writers(Scripted.of(final("one"), final("two"), RuntimeError("the power went")), tasks=3).kickoff
    )
    names = [checkpoint.name for checkpoint in bus.records.checkpoints(run_id)]
    assert len(names) == 2
    assert set(names) == {f"{TaskCompletedEvent.__module__}.TaskCompletedEvent"}
    again = Scripted.of(final("three"))
    with bus.resume(run_id, at=names[-1]):
        output = writers(again, tasks=3).kickoff()
    assert [task.raw for task in output.tasks_output] == ["one", "two", "three"]


def test_a_kickoff_resumes_from_a_named_checkpoint(bus):
    llm = Scripted.of(final("one"), final("two"), RuntimeError("the power went"))
    run_id = fail(bus, writers(llm, tasks=3, callback=keep).kickoff)
    assert {checkpoint.name for checkpoint in bus.records.checkpoints(run_id)} == {"after one", "after two"}
    again = Scripted.of(final("second"), final("third"))
    with bus.resume(run_id, at="after one"):
        output = writers(again, tasks=3, callback=keep).kickoff()
    assert [task.raw for task in output.tasks_output] == ["one", "second", "third"]


def test_a_fork_takes_another_path(bus):
    writers(Scripted.of(final("one"), final("two"))).kickoff()
    (run_id,) = bus.store.roots()
    steps = [e.event for e in bus.record_of(run_id) if isinstance(e.event, crewbus.StepStarted)]
    first = f"model scripted[{steps[0].key}]"
    other = bus.fork(run_id, edits={first: final("another")})
    again = Scripted.of(final("three"))
    with bus.resume(other):
        output = writers(again).kickoff()
    assert [task.raw for task in output.tasks_output] == ["another", "three"]
    assert "another" in again.asked[0]
    assert bus.records.info(run_id).state == "finished"


def test_a_different_kickoff_on_resume_is_an_error(bus):
    run_id = fail(bus, writers(Scripted.of(final("one"), RuntimeError("the power went"))).kickoff)
    changed = writers(Scripted.of(final("one"), final("two")))
    changed.tasks[0].description = "something else"
    with pytest.raises(crewbus.ReplayMismatch), bus.resume(run_id):
        changed.kickoff()


def test_kickoffs_that_are_not_recorded_have_no_steps(crew):
    with installed() as bus:
        heard = []
        bus.on(crewbus.StepStarted, heard.append)
        crew("plain").kickoff()
    assert heard == []
