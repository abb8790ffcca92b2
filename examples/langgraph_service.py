"""A graph of LangGraph behind an API: watched from a browser, killed, and continued by whichever worker is left.

pip install crewbus-http crewbus-langchain[langgraph] crewbus-sqlite
export CREWBUS_STORE=sqlite:///graph.db
crewbus worker examples/langgraph_service.py &
crewbus serve examples/langgraph_service.py --write      # open http://127.0.0.1:8000/ui

curl localhost:8000/workflows/report/runs -H 'Idempotency-Key: r1' --json '{"arguments": {"question": "the tides"}}'
curl -N localhost:8000/runs/r1/events

Kill the worker (kill -9) while it writes, and start another: it continues the run. A node that has ended is not called
again, so that no model's answer is paid for twice; what the killed one had streamed of an unfinished answer is taken
back, on the page and in the events.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from langchain_core.language_models import GenericFakeChatModel
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

import crewbus_langchain
from crewbus_workers import workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

crewbus_langchain.install(durable=True)  # each node is a step


class Report(TypedDict, total=False):
    """What the nodes know: each adds its part."""

    question: str
    findings: str
    text: str


async def answer(words: str) -> AsyncIterator[str]:
    """The pieces of a model's answer. Yours may be any of langchain's: this one says what it is given, slowly."""
    async for part in GenericFakeChatModel(messages=iter([words])).astream("say it"):
        yield part.text
        await asyncio.sleep(0.02)


async def research(state: Report) -> Report:
    """Find something out."""
    return {"findings": "".join([piece async for piece in answer(f"The moon moves {state['question']}. ")])}


async def write(state: Report) -> Report:
    """Write the report on what was found."""
    words = f"{state['findings']}The sun helps, and the coast decides how much of it is seen."
    return {"text": "".join([piece async for piece in answer(words)])}


graph = (
    StateGraph(Report)
    .add_node(research)
    .add_node(write)
    .add_edge(START, "research")
    .add_edge("research", "write")
    .compile()
)


@workflow(name="report")
async def report(question: str) -> str:
    """Answer a question with a report."""
    return str((await graph.ainvoke({"question": question}))["text"])
