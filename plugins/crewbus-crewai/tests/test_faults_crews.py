"""Faults of crewAI's crews: present without the plugin, fixed with it."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import crewai
import pytest
from helpers import TIMEOUT, in_threads
from pydantic import PrivateAttr
from scripted import Scripted

from crewbus_crewai.patched import executors

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # by stock crewAI

ANSWER = "Thought: I know.\nFinal Answer: it"


@pytest.fixture(autouse=True)
def collected_here():
    yield
    gc.collect()


def one_agent(llm, **options):
    return crewai.Agent(role="writer", goal="to write", backstory="It wrote.", llm=llm, max_retry_limit=0, **options)


def task_of(agent, about="it", **options):
    return crewai.Task(description=f"Write about {about}.", expected_output="a text", agent=agent, **options)


# crewAI#7607


def crew_with_callbacks(before=(), after=()):
    agent = one_agent(Scripted.of(*[ANSWER] * 9))
    task = task_of(agent, "{topic}")
    return crewai.Crew(
        agents=[agent], tasks=[task], before_kickoff_callbacks=[*before], after_kickoff_callbacks=[*after]
    )


async def renamed(inputs):
    await asyncio.sleep(0)
    return {**inputs, "topic": f"the {inputs['topic']}"}


def plural(inputs):
    return {**inputs, "topic": f"{inputs['topic']}s"}


async def shouted(output):
    await asyncio.sleep(0)
    output.raw = output.raw.upper()
    return output


def doubled(output):
    output.raw *= 2
    return output


def akickoff(crew, **options):
    return asyncio.run(crew.akickoff({"topic": "tide"}, **options))


def test_async_callbacks_after_akickoff_are_awaited_in_their_order(active):
    crew = crew_with_callbacks(after=[doubled, shouted, doubled])
    if active:
        assert akickoff(crew).raw == "ITITITIT"
        assert akickoff(crew).raw == "ITITITIT"
    else:
        with pytest.raises(AttributeError, match="coroutine"):
            akickoff(crew)


def test_async_callbacks_before_akickoff_are_awaited_in_their_order(active):
    crew = crew_with_callbacks(before=[plural, renamed, plural])
    if active:
        akickoff(crew)
        assert crew.tasks[0].description == "Write about the tidess."
    else:
        with pytest.raises(TypeError, match="coroutine"):
            akickoff(crew)


def test_the_callbacks_stay_those_of_the_crew(active):
    crew = crew_with_callbacks([plural], [doubled])
    assert akickoff(crew).raw == "itit"
    assert crew.tasks[0].description == "Write about tides."
    assert (crew.before_kickoff_callbacks, crew.after_kickoff_callbacks) == ([plural], [doubled])
    crew.after_kickoff_callbacks.append(doubled)
    assert crew.kickoff({"topic": "tide"}).raw == "itititit"
    assert akickoff(crew).raw == "itititit"


# crewAI#7259


class Counting(Scripted):
    def call(self, messages, *args, **kwargs):
        self._track_token_usage_internal({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12})
        return super().call(messages)


@pytest.mark.parametrize("shared", [True, False])
def test_the_usage_of_a_shared_model_is_counted_once(active, shared):
    script = [ANSWER] * 3
    llm = Counting.of(*script)
    agents = [one_agent(llm if shared else Counting.of(*script)) for _ in range(3)]
    crew = crewai.Crew(agents=agents, tasks=[task_of(agent) for agent in agents])
    crew.kickoff()
    times = 1 if active or not shared else 3
    assert crew.usage_metrics.total_tokens == 36 * times
    assert crew.usage_metrics.successful_requests == 3 * times


# crewAI#7332


class Meeting(Scripted):
    """Waits with its first two answers until it is asked for both."""

    _barrier: Any = PrivateAttr(default_factory=lambda: threading.Barrier(2))
    _both: Any = PrivateAttr(default_factory=asyncio.Event)

    def call(self, messages, *args, **kwargs):
        about = self._note(messages)
        if about != "stars":
            self._barrier.wait(TIMEOUT)
        return f"Thought: I know.\nFinal Answer: {about}"

    async def acall(self, messages, *args, **kwargs):
        about = self._note(messages)
        if len(self.asked) == 2:
            self._both.set()
        await asyncio.wait_for(self._both.wait(), TIMEOUT)
        return f"Thought: I know.\nFinal Answer: {about}"

    def _note(self, messages):
        about = messages[-1]["content"].partition("about ")[2].partition(".")[0]
        self.asked.append(about)
        return about


@pytest.mark.parametrize("options", [{}, {"max_execution_time": 60}], ids=["", "limited"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["kickoff", "akickoff"])
def test_an_agent_executes_concurrent_tasks_each_with_its_own_answer(bus, asynchronous, options):
    topics = ["tides", "moons", "stars"]
    agent = one_agent(Meeting(model="meeting"), **options)
    tasks = [task_of(agent, topic, async_execution=topic != "stars") for topic in topics]
    crew = crewai.Crew(agents=[agent], tasks=tasks)
    output = asyncio.run(crew.akickoff()) if asynchronous else crew.kickoff()
    assert [task.raw for task in output.tasks_output] == topics
    assert not executors._used


def test_crews_that_share_an_agent_run_at_the_same_time(bus):
    agent = one_agent(Meeting(model="meeting"))
    crews = [crewai.Crew(agents=[agent], tasks=[task_of(agent, topic)]) for topic in ("tides", "moons")]
    assert [output.raw for output in in_threads(2, lambda place: crews[place].kickoff())] == ["tides", "moons"]


def test_an_agent_keeps_its_executor_for_tasks_one_after_the_other(active):
    seen = []

    class Looking(Scripted):
        def call(self, messages, *args, **kwargs):
            seen.append(agent.agent_executor)
            return super().call(messages)

    agent = one_agent(Looking.of(*[ANSWER] * 2))
    crewai.Crew(agents=[agent], tasks=[task_of(agent), task_of(agent)]).kickoff()
    assert seen[0] is seen[1] is not None
