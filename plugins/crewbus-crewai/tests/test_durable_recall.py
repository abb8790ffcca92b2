"""Recall, knowledge and large results in recorded kickoffs, and chunks of models that pass no task."""

from __future__ import annotations

import asyncio

import crewai
import pytest
from crewai.knowledge.knowledge import Knowledge
from crewai.memory.types import MemoryMatch, MemoryRecord
from crewai.memory.unified_memory import Memory
from crewai.tools import tool
from crews import installed, make_crew

pytestmark = pytest.mark.filterwarnings(r"ignore:datetime\.datetime\.utcnow:DeprecationWarning")

LIMIT = 10_000


@pytest.fixture
def bus():
    with installed() as bus:
        bus.enable_recording("memory:", max_event_bytes=LIMIT)
        yield bus


def match(text):
    return MemoryMatch(record=MemoryRecord(content=text, embedding=[1.0]), score=0.5)


class Resumed(Exception):
    pass


def twice(bus, work):
    """What ``work`` returns in a run that is interrupted, and in the same run when it is resumed."""
    results = []
    with pytest.raises(Resumed), bus.run(id="r"):
        results.append(work())
        raise Resumed
    with bus.resume("r"):
        results.append(work())
    return results


def test_what_a_memory_recalls_is_a_step(bus):
    answers = [[match("the moon")], [match("the moon"), match("added meanwhile")]]

    class Store:
        def search(self, *args, **kwargs):
            return [(one.record, one.score) for one in answers.pop(0)]

    memory = Memory.model_construct(root_scope=None)
    memory._storage = Store()
    memory._embedder_instance = lambda texts: [[1.0] for _ in texts]
    before, after = twice(bus, lambda: memory.recall("tides", depth="shallow"))
    assert [one.record.content for one in before] == ["the moon"]
    assert [(one.record.id, one.score) for one in after] == [(one.record.id, one.score) for one in before]
    assert len(answers) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_knowledge_answers_is_a_step(bus, asynchronous):
    answers = [[{"id": "1", "content": "the moon", "metadata": {}, "score": 0.9}], []]

    class Store:
        def search(self, *args, **kwargs):
            return answers.pop(0)

        async def asearch(self, *args, **kwargs):
            return answers.pop(0)

    knowledge = Knowledge.model_construct(storage=Store(), sources=[])
    work = (lambda: asyncio.run(knowledge.aquery(["tides"]))) if asynchronous else (lambda: knowledge.query(["tides"]))
    before, after = twice(bus, work)
    assert before == after == [{"id": "1", "content": "the moon", "metadata": {}, "score": 0.9}]


def test_a_result_above_the_limit_reaches_the_agent_and_is_computed_again(bus):
    used = []

    @tool("big")
    def big() -> str:
        """Large."""
        used.append(1)
        return "x" * 2 * LIMIT

    assert twice(bus, big.run) == ["x" * 2 * LIMIT] * 2
    assert len(used) == 2


class Silent(crewai.BaseLLM):
    def call(self, messages, *args, **kwargs):
        self._emit_stream_chunk_event("Final Answer: it", call_type="llm_call")
        return "Final Answer: it"


def test_the_chunk_of_a_model_that_passes_no_task_has_its_task():
    with installed():
        crew = make_crew(None, "told", tasks=2, llm=Silent(model="silent"), stream=True)
        chunks = {(chunk.task_index, chunk.task_id) for chunk in crew.kickoff()}
    assert chunks == {(place, str(task.id)) for place, task in enumerate(crew.tasks)}
