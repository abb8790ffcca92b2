"""LangGraph with its SQLite saver: a graph of one node for each agent, which streams and then returns the text.

It saves the state before and after the node: the chunks themselves are not recorded, and a crash loses them.
"""

from __future__ import annotations

import os

from benchmarks._quiet import QUIET

os.environ.update(QUIET)

import asyncio
import tempfile
from pathlib import Path
from typing import Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph

from benchmarks._agents import Crowd, Found, Meter


class State(TypedDict):
    text: str


def recorded(crowd: Crowd) -> Found:
    """A thread of the saver for each agent."""

    async def together(path: Path) -> Found:
        meter = Meter(crowd)

        async def write(_: State) -> dict[str, Any]:
            await meter.agent(get_stream_writer())
            return {"text": "Hello" * crowd.chunks}

        async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            builder: Any = StateGraph(State)
            graph = builder.add_node("write", write).add_edge(START, "write").compile(checkpointer=saver)

            async def one(number: int) -> None:
                config: Any = {"configurable": {"thread_id": str(number)}}
                text: Any
                async for text in graph.astream({"text": ""}, config, stream_mode="custom"):
                    meter.came(text)

            await asyncio.gather(*(one(number) for number in range(crowd.agents)))
        return meter.found

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(together(Path(folder, "langgraph.db")))
