"""Crews, tools, models and flows as users write them, with and without the plugin."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from behaviour import agent, answer, crew, crewai, listening, llm, pieces
from helpers import TIMEOUT

pytest_plugins = ["behaviour_fixtures"]
pytestmark = [pytest.mark.usefixtures("either_way"), pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")]

TOOL_EVENTS = ["ToolUsageStartedEvent", "ToolUsageFinishedEvent", "ToolUsageErrorEvent"]


def scripted(*answers):
    """A model of one's own, which gives these answers, one after the other."""

    class Scripted(crewai().BaseLLM):
        def call(self, messages, tools=None, **options):
            asked.append(messages if isinstance(messages, str) else "\n".join(one["content"] for one in messages))
            return answers[len(asked) - 1]

        async def acall(self, messages, tools=None, **options):
            return self.call(messages, tools, **options)

        def supports_function_calling(self):
            return False

    asked = []
    made = Scripted(model="scripted")
    return made, asked


def use(word, tool="search"):
    return f'Thought: I look it up.\nAction: {tool}\nAction Input: {{"word": "{word}"}}'


FINAL = "Thought: I know.\nFinal Answer: done"


def search_tool(fail=False, **options):
    """A tool, and the words that it was called with."""
    from crewai.tools import BaseTool

    words = []

    class Search(BaseTool):
        name: str = "search"
        description: str = "Looks a word up."

        def _run(self, word: str) -> str:
            words.append(word)
            if fail:
                raise ValueError("no such word")
            return f"{word} is a word"

    return Search(**options), words


def using(model, *tools):
    """A crew of one agent that has these tools."""
    one = crewai().Agent(role="seeker", goal="to find", backstory="It found.", llm=model, tools=list(tools))
    task = crewai().Task(description="Look it up.", expected_output="a word", agent=one)
    return crewai().Crew(agents=[one], tasks=[task])


def tool_events():
    return listening(*(getattr(crewai(), name) for name in TOOL_EVENTS))


# Tools


@pytest.mark.parametrize("method", ["kickoff", "akickoff"])
def test_an_agent_receives_the_result_of_its_tool(method):
    model, asked = scripted(use("tide"), FINAL)
    tool, words = search_tool()
    with tool_events() as heard:
        output = getattr(using(model, tool), method)()
        output = asyncio.run(output) if method == "akickoff" else output
    assert output.raw == "done"
    assert words == ["tide"]
    assert "tide is a word" in asked[1]
    started, finished = sorted(heard, key=lambda event: event.emission_sequence)
    assert (started.type, finished.type) == ("tool_usage_started", "tool_usage_finished")
    assert (started.tool_name, finished.output, finished.agent_role) == ("search", "tide is a word", "seeker")
    assert not finished.from_cache
    assert finished.started_event_id == started.event_id


def test_an_agent_continues_after_its_tool_fails():
    model, _ = scripted(*8 * [use("tide")], FINAL, FINAL)
    tool, words = search_tool(fail=True)
    with tool_events() as heard:
        made = using(model, tool)
        made.agents[0].max_iter = 3
        made.kickoff()
    assert words
    errors = [event for event in heard if event.type == "tool_usage_error"]
    assert errors
    assert all("no such word" in str(event.error) for event in errors)


def test_a_tools_result_may_be_the_answer():
    model, asked = scripted(use("tide"), FINAL)
    tool, _ = search_tool(result_as_answer=True)
    assert using(model, tool).kickoff().raw == "tide is a word"
    assert len(asked) == 1


def test_a_tool_is_used_at_most_its_maximum():
    model, asked = scripted(use("tide"), use("moon"), FINAL)
    tool, words = search_tool(max_usage_count=1)
    using(model, tool).kickoff()
    assert words == ["tide"]
    assert "usage limit" in asked[2]


def test_a_tool_is_run_by_hand():
    from crewai.tools import tool as as_tool

    @as_tool("adder")
    def add(one: int, other: int) -> int:
        """Adds."""
        return one + other

    @as_tool("async adder")
    async def add_later(one: int, other: int) -> int:
        """Adds, later."""
        await asyncio.sleep(0)
        return one + other

    assert add.run(one=1, other=2) == add.run(1, 2) == 3
    assert asyncio.run(add_later.arun(one=1, other=2)) == 3
    assert add_later.run(one=1, other=2) == 3
    with pytest.raises(ValueError, match="validation failed"):
        add.run(one="one", other=2)
    assert add.current_usage_count >= 2
    structured = add.to_structured_tool()
    assert structured.invoke({"one": 1, "other": 2}) == 3
    assert asyncio.run(structured.ainvoke({"one": 1, "other": 2})) == 3


# Models


def test_a_custom_model_is_called(either_way):
    model, asked = scripted("Final Answer: hello")
    assert using(model).kickoff().raw == "hello"
    assert len(asked) == 1
    assert model.call.__name__ == "call"


def test_hooks_around_model_calls_see_and_change_them():
    from crewai.hooks import (
        register_after_llm_call_hook,
        register_before_llm_call_hook,
        unregister_after_llm_call_hook,
        unregister_before_llm_call_hook,
    )

    seen = []

    def before(context):
        seen.append(context.agent.role)

    def after(context):
        return context.response.replace("a:0", "changed")

    register_before_llm_call_hook(before)
    register_after_llm_call_hook(after)
    try:
        assert crew("a").kickoff().raw == answer("a").replace("a:0", "changed")
    finally:
        unregister_before_llm_call_hook(before)
        unregister_after_llm_call_hook(after)
    assert seen == ["writer of a"]


def test_models_are_called_from_many_threads():
    tags = [f"t{number}" for number in range(8)]
    with ThreadPoolExecutor(len(tags)) as threads:
        answers = list(threads.map(lambda tag: llm(stream=True).call(f"RUN={tag}"), tags, timeout=TIMEOUT))
    assert answers == ["".join(pieces(tag)) for tag in tags]


def test_a_model_is_called_on_a_loop():
    async def main():
        return await asyncio.gather(*(llm().acall(f"RUN={tag}") for tag in "ab"))

    assert asyncio.run(main()) == ["".join(pieces(tag)).strip() for tag in "ab"]


# Agents and crews


def test_an_agent_works_alone():
    assert agent().kickoff("RUN=a").raw == answer("a")
    assert asyncio.run(agent().kickoff_async("RUN=a")).raw == answer("a")
    assert asyncio.run(agent().akickoff([{"role": "user", "content": "RUN=a"}])).raw == answer("a")


def test_concurrent_tasks_are_awaited():
    made = crew("a", "b", "c")
    for task in made.tasks[:2]:
        task.async_execution = True
    with listening(crewai().TaskCompletedEvent) as heard:
        output = made.kickoff()
    assert [task.raw for task in output.tasks_output] == [answer(tag) for tag in "abc"]
    assert sorted(event.task_name for event in heard) == ["a", "b", "c"]


@pytest.mark.filterwarnings("ignore:function callbacks cannot be serialized:UserWarning")
def test_callbacks_are_called_in_their_order():
    order = []

    def called(name, result=None):
        def callback(given):
            order.append(name)
            return given if result is None else result

        return callback

    made = crew("a", "b", task_callback=called("each task"))
    made.tasks[0].callback = called("task a")
    made.before_kickoff_callbacks = [called("before", {"x": 1})]
    made.after_kickoff_callbacks = [called("after")]
    made.kickoff(inputs={})
    assert order == ["before", "task a", "each task", "each task", "after"]


def test_a_guardrail_repeats_a_task():
    judged = []

    def guard(output):
        judged.append(output.raw)
        return (len(judged) > 1, output.raw if len(judged) > 1 else "not yet")

    made = crew("a")
    one = crewai().Task(description="RUN=a", expected_output="a text", agent=made.agents[0], guardrail=guard)
    assert crewai().Crew(agents=made.agents, tasks=[one]).kickoff().raw == answer("a")
    assert judged == [answer("a"), answer("a")]


def test_a_failing_kickoff_raises_and_emits_its_failure():
    made = crew("a", prompt="FAIL=1")
    made.agents[0].llm.stream = True
    kinds = [crewai().CrewKickoffFailedEvent, crewai().TaskFailedEvent, crewai().LLMCallFailedEvent]
    with listening(*kinds) as heard, pytest.raises(Exception, match="peer closed connection"):
        made.kickoff()
    assert {type(event) for event in heard} == set(kinds)


# Flows


def test_a_flow_routes_joins_and_nests():
    class Inner(crewai().Flow):
        @crewai().start()
        def go(self):
            return self.state["word"].upper()

    class Outer(crewai().Flow):
        @crewai().start()
        def one(self):
            return crew("a").kickoff().raw

        @crewai().start()
        async def two(self):
            return await Inner().kickoff_async(inputs={"word": "tide"})

        @crewai().listen(crewai().and_(one, two))
        def both(self):
            return "both"

        @crewai().router(both)
        def choose(self):
            return "to the left"

        @crewai().listen("to the left")
        def left(self):
            return sorted(str(output) for output in self.method_outputs)

        @crewai().listen("to the right")
        def right(self):
            raise AssertionError("not chosen")

    with listening(crewai().FlowFinishedEvent) as heard:
        result = Outer().kickoff()
    assert answer("a") in result
    assert "TIDE" in result
    assert {"Inner", "Outer"} <= {event.flow_name for event in heard}


def test_a_persisted_flow_continues_with_its_state(tmp_path):
    from crewai.flow.persistence import SQLiteFlowPersistence

    kept = SQLiteFlowPersistence(str(tmp_path / "flows.db"))

    @crewai().persist(kept)
    class Counting(crewai().Flow):
        @crewai().start()
        def count(self):
            self.state["count"] = self.state.get("count", 0) + 1
            return self.state["count"]

    first = Counting()
    assert first.kickoff() == 1
    assert Counting().kickoff(inputs={"id": first.state["id"]}) == 2
    other = Counting()
    assert other.kickoff(restore_from_state_id=first.state["id"]) == 3
    assert other.state["id"] != first.state["id"]


def test_a_flow_that_waits_for_a_human_is_resumed(tmp_path):
    from crewai.flow.persistence import SQLiteFlowPersistence

    kept = SQLiteFlowPersistence(str(tmp_path / "flows.db"))

    class Absent:
        def request_feedback(self, context, flow):
            raise crewai().HumanFeedbackPending(context=context)

    class Review(crewai().Flow):
        @crewai().start()
        @crewai().human_feedback(message="Is it good?", provider=Absent())
        def draft(self):
            return "a draft"

        @crewai().listen(draft)
        def publish(self, feedback):
            return f"{feedback.output}: {feedback.feedback}"

    with listening(crewai().FlowPausedEvent, crewai().FlowFinishedEvent) as heard:
        waiting = Review(persistence=kept)
        assert type(waiting.kickoff()) is crewai().HumanFeedbackPending
    assert [event.type for event in heard] == ["flow_paused"]
    again = Review.from_pending(waiting.state["id"], kept)
    assert again.pending_feedback.message == "Is it good?"
    with listening(crewai().FlowFinishedEvent) as heard:
        assert again.resume("yes") == "a draft: yes"
    assert len(heard) == 1
