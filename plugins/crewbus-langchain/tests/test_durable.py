"""Durable graphs: a run that was killed goes on in another process, and no node or task is computed again."""

from __future__ import annotations

import dataclasses
import operator
import signal
import subprocess
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import pytest
from helpers import TIMEOUT, quiet_bus
from killed import QUESTION, Work, run
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from models import graph_of
from typing_extensions import TypedDict

import crewbus
import crewbus_langchain

PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
WORKERS = ["worker 1", "worker 2", "worker 3"]
ANSWER = ["?", "The moon.", "In all 16."]

if find_spec("crewbus_sqlite") is not None:  # a bus warns of a plugin whose import takes long, as on a busy machine
    import_module("crewbus_sqlite")

needs_sqlite = pytest.mark.skipif(
    not metadata.entry_points(group="crewbus", name="sqlite"), reason="needs crewbus-sqlite"
)


def killed(folder, kind, kill_at, run_id):
    arguments = (str(folder), kind, kill_at, run_id)
    program = f"import sys; sys.path[:0] = {PATHS!r}; import killed; killed.main(*{arguments!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=3 * TIMEOUT, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def resumed(folder, kind):
    """Resume what was killed; returns the result and what was called."""
    work = Work()
    with crewbus.Bus(["sqlite"], entry_points=False) as bus:
        crewbus_langchain.install(bus, durable=True)
        try:
            bus.enable_recording(f"sqlite:///{folder}/runs.db")
            (run_id,) = bus.store.roots()
            with bus.resume(run_id):
                result = run(bus, kind, str(folder), work)
            assert bus.records.info(run_id).state == "finished"
            return result, work.called
        finally:
            crewbus_langchain.uninstall()


def spoken(result):
    return [message.text for message in result["messages"]]


@needs_sqlite
@pytest.mark.parametrize(
    ("kind", "kill_at", "left"), [("graph", "leaf", ["leaf", "end"]), ("checkpointed", "end", ["end"])]
)
def test_a_killed_graph_repeats_no_node_that_was_done(tmp_path, kind, kill_at, left):
    killed(tmp_path, kind, kill_at, "chosen" if kind == "graph" else None)
    result, called = resumed(tmp_path, kind)
    assert called == left
    assert (spoken(result), result["total"]) == (ANSWER, 16)


@needs_sqlite
def test_a_killed_async_graph_with_a_checkpointer_goes_on(tmp_path):
    killed(tmp_path, "async", "two", "chosen")
    result, called = resumed(tmp_path, "async")
    assert called == ["two"]
    assert (spoken(result), result["total"]) == (["?"], 3)


@needs_sqlite
def test_a_killed_workflow_repeats_no_task_that_was_done(tmp_path):
    killed(tmp_path, "workflow", "double 6", "chosen")
    assert resumed(tmp_path, "workflow") == (12, ["double 6"])


# In one process: runs that are suspended, and resumed


@pytest.fixture
def durable():
    """A bus that records in memory, for which nodes and tasks are steps."""
    with quiet_bus() as bus:
        crewbus_langchain.install(bus, durable=True)
        bus.enable_recording("memory://")
        yield bus
    crewbus_langchain.uninstall()


def twice(bus, function):
    """Call ``function`` in a run that is suspended at its end, and again as that is resumed; returns both results."""
    with pytest.raises(crewbus.RunSuspendedError), bus.run("mine", id="mine") as mine:
        first = function()
        mine.suspend("for a while")
        bus.chunk("")
    with bus.resume("mine"):
        return first, function()


def test_undisturbed_graphs_are_what_they_are_without_the_plugin(durable):
    work, plain = Work(), Work()
    with durable.run():
        result = work.graph().invoke(QUESTION)
    crewbus_langchain.uninstall()
    assert spoken(result) == spoken(plain.graph().invoke(QUESTION)) == ANSWER
    assert sorted(work.called) == sorted(plain.called)


def test_a_resumed_run_takes_every_node_from_the_record(durable):
    work = Work()
    first, second = twice(durable, lambda: work.graph().invoke(QUESTION))
    assert sorted(work.called) == sorted(["ask", *WORKERS, "leaf", "end"])
    assert (spoken(second), second["total"]) == (spoken(first), first["total"])


def test_graphs_in_a_run_that_is_not_recorded_are_not_steps(durable):
    heard = []
    durable.on(crewbus.StepStarted, heard.append)
    with durable.run(record=False):
        Work().graph().invoke(QUESTION)
    assert heard == []


def test_an_interrupted_graph_asks_again_and_goes_on_with_the_answer(durable):
    asked, answered = [], []

    def ask(state):
        asked.append(1)
        return {"said": interrupt("go on?")}

    def after(state):
        answered.append(state["said"])
        return {"left": "x"}

    def both():
        graph = graph_of(ask, after, checkpointer=saver)
        config = {"configurable": {"thread_id": "t"}}
        first = graph.invoke({"asked": "?"}, config)
        assert [one.value for one in first["__interrupt__"]] == ["go on?"]
        return graph.invoke(Command(resume="yes"), config)

    saver = InMemorySaver()
    first, second = twice(durable, both)
    assert first == second == {"asked": "?", "said": "yes", "left": "x"}
    assert answered == ["yes"]


def test_a_node_that_fails_is_retried_in_its_step_and_the_result_counts(durable):
    tries = []

    def node(state):
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("not yet")
        return {"asked": "done"}

    class State(TypedDict):
        asked: str

    def once():
        builder = StateGraph(State)
        builder.add_node("node", node, retry_policy=RetryPolicy(initial_interval=0, jitter=False, retry_on=ValueError))
        return builder.add_edge(START, "node").compile().invoke({"asked": "?"})

    assert twice(durable, once) == ({"asked": "done"}, {"asked": "done"})
    assert len(tries) == 2


def test_a_command_to_the_graph_around_is_taken_from_the_record(durable):
    called = []

    class State(TypedDict):
        seen: Annotated[list[str], operator.add]

    def leave(state):
        called.append("leave")
        return Command(graph=Command.PARENT, goto="end", update={"seen": ["left"]})

    def end(state):
        called.append("end")
        return {"seen": ["end"]}

    def once():
        inner = StateGraph(State).add_node("leave", leave).add_edge(START, "leave").compile()
        builder = StateGraph(State).add_node("inner", inner, destinations=("end",)).add_node("end", end)
        return builder.add_edge(START, "inner").compile().invoke({"seen": []})

    assert twice(durable, once) == ({"seen": ["left", "end"]},) * 2
    assert called == ["leave", "end"]


@dataclasses.dataclass
class Plan:
    """What a node may write, and the record does not know."""

    what: str


def test_a_value_that_would_not_come_back_is_refused_and_named(durable):
    def plan(state):
        return {"said": Plan("tides")}

    with (
        pytest.raises(crewbus.UnserializableError, match=r"'plan' wrote something .* durable=\[\.\.\.\]"),
        durable.run(),
    ):
        graph_of(plan).invoke({"asked": "?"})


def test_types_that_are_named_come_back(durable):
    crewbus_langchain.install(durable, durable=[Plan])

    def plan(state):
        return {"said": Plan("tides")}

    first, second = twice(durable, lambda: graph_of(plan).invoke({"asked": "?"}))
    assert first["said"] == second["said"] == Plan("tides")
