"""LangGraph: a graph of one node, which writes to the stream of custom data; no checkpointer."""

from __future__ import annotations

import os

from benchmarks._quiet import QUIET

os.environ.update(QUIET)

from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph

from benchmarks._together import Clock, produce


class State(TypedDict):
    clock: Any
    count: int
    burst: int


async def _write(state: State) -> dict[str, Any]:
    await produce(get_stream_writer(), state["clock"], state["count"], state["burst"])
    return {}


_graph = StateGraph(State).add_node("write", _write).add_edge(START, "write").compile()


async def consume(clock: Clock, count: int, burst: int) -> None:
    left = count
    async for _ in _graph.astream({"clock": clock, "count": count, "burst": burst}, stream_mode="custom"):
        left -= 1
        if not left:
            clock.done()
