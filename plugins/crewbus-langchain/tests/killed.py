"""Graphs and workflows that are killed in the middle; they run in another process first, and then in the test's."""

from __future__ import annotations

import asyncio
import operator
import os
import signal
from collections.abc import Callable
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send
from models import Scripted
from typing_extensions import TypedDict

import crewbus
import crewbus_langchain

QUESTION = {"messages": [("user", "?")], "total": 0}
THREAD = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    total: Annotated[int, operator.add]


class Work:
    """Nodes and tasks that note that they were called, and die where they are told to."""

    def __init__(self, kill_at: str | None = None, before_death: Callable[[], object] = bool) -> None:
        self.called: list[str] = []
        self._kill_at, self._before_death = kill_at, before_death

    def did(self, name: str) -> None:
        if name == self._kill_at:
            self._before_death()
            os.kill(os.getpid(), signal.SIGKILL)
        self.called.append(name)

    def graph(self, checkpointer: Any = None) -> Any:
        """A model's answer, three workers at once, a node in a graph in a graph, and the end."""

        def ask(state: State) -> Command[str]:
            said = "".join(part.text for part in Scripted().stream("?"))
            self.did("ask")
            return Command(
                update={"messages": [AIMessage(said)]}, goto=[Send("worker", {"total": n}) for n in (1, 2, 3)]
            )

        def worker(state: State) -> State:
            self.did(f"worker {state['total']}")
            return {"total": state["total"]}

        def leaf(state: State) -> State:
            self.did("leaf")
            return {"total": 10}

        def end(state: State) -> State:
            self.did("end")
            return {"messages": [AIMessage(f"In all {state['total']}.")]}

        inner = StateGraph(State).add_node("leaf", leaf).add_edge(START, "leaf").compile()
        builder = StateGraph(State)
        builder.add_node("ask", ask, destinations=("worker",))
        builder.add_node("worker", worker)
        builder.add_node("inner", lambda state: {"total": inner.invoke({"total": 0})["total"]})
        builder.add_node("end", end)
        builder.add_edge(START, "ask")
        builder.add_edge("worker", "inner")
        builder.add_edge("inner", "end")
        return builder.compile(checkpointer=checkpointer)

    def agraph(self, checkpointer: Any = None) -> Any:
        """Two async nodes after each other."""

        async def one(state: State) -> State:
            await asyncio.sleep(0)
            self.did("one")
            return {"total": 1}

        async def two(state: State) -> State:
            self.did("two")
            return {"total": 2}

        builder = StateGraph(State).add_node("one", one).add_node("two", two)
        return builder.add_edge(START, "one").add_edge("one", "two").compile(checkpointer=checkpointer)

    def workflow(self) -> Any:
        """Tasks of the functional API, two of them at once."""

        @task
        def double(x: int) -> int:
            self.did(f"double {x}")
            return 2 * x

        @entrypoint()
        def whole(x: int) -> int:
            first = [double(x), double(x + 1)]
            return double(sum(one.result() for one in first)).result()

        return whole


def run(bus: crewbus.Bus, kind: str, folder: str, work: Work) -> Any:
    """Run a graph or workflow of a kind, with its checkpoints in ``folder`` if it has any."""
    if kind == "workflow":
        return work.workflow().invoke(1)
    if kind == "graph":
        return work.graph().invoke(QUESTION)
    if kind == "checkpointed":
        with SqliteSaver.from_conn_string(f"{folder}/graph.db") as saver:
            graph = work.graph(saver)
            result = graph.invoke(QUESTION, THREAD)
            assert graph.get_state(THREAD).values == result
            return result

    async def main() -> Any:
        async with AsyncSqliteSaver.from_conn_string(f"{folder}/graph.db") as saver:
            return await work.agraph(saver).ainvoke(QUESTION, THREAD)

    return asyncio.run(main())


def main(folder: str, kind: str, kill_at: str, run_id: str | None) -> None:
    """Run it until it is killed, recorded in ``folder``, in a run of its own or with the graph's run as the root."""
    with crewbus.Bus(["sqlite"], entry_points=False) as bus:
        crewbus_langchain.install(bus, durable=True)
        bus.enable_recording(f"sqlite:///{folder}/runs.db")
        work = Work(kill_at, bus.flush)
        if run_id is None:
            run(bus, kind, folder, work)
        with bus.run("mine", id=run_id):
            run(bus, kind, folder, work)
