"""What docs/explanation says of other tools, one test for each claim; and whether the tests exist that its pages name.

The former run where the peers are installed. What is said of crewAI is shown in plugins/crewbus-crewai/tests.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import operator
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from helpers import TIMEOUT, in_thread, quiet_bus

MANY = 5000
"""More than any bounded buffer that crewbus makes by itself."""

# What the peers and their dependencies warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")


class Failed(Exception):
    pass


# The pages


ROOT = Path(__file__).parent.parent
EXPLANATION = ROOT / "docs" / "explanation"
TEST = re.compile(r"def (test_\w+)\(")


def named(page: str) -> set[str]:
    """The tests that a page names."""
    return set(re.findall(r"`(test_\w+)`", (EXPLANATION / page).read_text()))


def test_each_claim_of_the_comparison_is_named_there():
    shown = set(TEST.findall(Path(__file__).read_text()))
    ours = {name for name in shown if name.startswith(("test_each_", "test_a_clock_"))}
    assert named("comparison.md") >= shown - ours


@pytest.mark.parametrize("page", ["comparison.md", "failure-modes.md"])
def test_each_test_that_a_page_names_exists(page):
    places = [ROOT / "tests", ROOT / "crewbus" / "testing", *(ROOT / "plugins").glob("*/tests")]
    known = {test for place in places for file in place.rglob("*.py") for test in TEST.findall(file.read_text())}
    assert named(page)
    assert named(page) - known == set()


def test_a_clock_that_goes_backwards_changes_no_order(monkeypatch):
    clock = itertools.count(1000.0, step=-1.0)
    monkeypatch.setattr("crewbus.dispatch.lane.now", lambda: next(clock))
    with quiet_bus() as bus:
        bus.enable_recording("memory:")
        with bus.run(id="run") as run:
            stream = bus.subscribe("run", timeout=TIMEOUT)
            run.chunk("first ")
            run.chunk("second")
        assert stream.text() == "first second"
        envelopes = list(bus.record_of("run"))
        assert [envelope.seq for envelope in envelopes] == [0, 1, 2, 3]
        assert all(one.at > next_one.at for one, next_one in itertools.pairwise(envelopes))
        assert bus.records.info("run").state == "finished"


# blinker


@pytest.fixture
def blinker() -> Any:
    return pytest.importorskip("blinker")


def test_blinker_a_receiver_that_raises_reaches_the_sender_and_ends_the_sending(blinker):
    signal, called = blinker.Signal(), []

    def receive(sender):
        called.append(sender)
        raise Failed

    def receive_too(sender):
        called.append(sender)
        raise Failed

    signal.connect(receive)
    signal.connect(receive_too)
    with pytest.raises(Failed):
        signal.send("here")
    assert called == ["here"]


def test_blinker_a_receiver_is_held_weakly_unless_told_otherwise(blinker):
    signal, called = blinker.Signal(), []

    def subscribe(weak):
        signal.connect(lambda sender: called.append(weak), weak=weak)

    subscribe(True)
    subscribe(False)
    gc.collect()
    signal.send()
    assert called == [False]


def test_blinker_a_receiver_can_subscribe_to_one_sender(blinker):
    signal, called = blinker.Signal(), []
    writer, editor = object(), object()
    receive = signal.connect(called.append, sender=writer, weak=False)
    signal.send(editor)
    signal.send(writer)
    assert called == [writer]
    assert receive is not None


def test_blinker_what_receivers_return_comes_back_to_the_sender(blinker):
    signal = blinker.Signal()
    signal.connect(lambda sender: 42, weak=False)
    assert [result for _, result in signal.send()] == [42]


# pluggy, which pytest's plugins are made with


def test_pluggy_a_hookimpl_that_raises_reaches_the_caller_and_ends_the_call():
    import pluggy

    spec, impl = pluggy.HookspecMarker("press"), pluggy.HookimplMarker("press")
    called = []

    class Specs:
        @spec
        def received(self):
            """A hook."""

    class Failing:
        @impl
        def received(self):
            called.append(self)
            raise Failed

    manager = pluggy.PluginManager("press")
    manager.add_hookspecs(Specs)
    for _ in range(2):
        manager.register(Failing())
    with pytest.raises(Failed):
        manager.hook.received()
    assert len(called) == 1


# langchain-core and LangGraph


class State(TypedDict):
    done: Annotated[list[str], operator.add]


@pytest.fixture
def graph() -> Any:
    """A builder of graphs over `State`."""
    return pytest.importorskip("langgraph.graph").StateGraph(State)


@pytest.fixture
def saver() -> Any:
    """A checkpointer."""
    return pytest.importorskip("langgraph.checkpoint.memory").InMemorySaver()


def custom(compiled: Any, **config: Any) -> list[Any]:
    return list(compiled.stream({"done": []}, {"configurable": config}, stream_mode="custom"))


def writer() -> Callable[[Any], None]:
    from langgraph.config import get_stream_writer

    return get_stream_writer()


def test_langgraph_a_stream_has_what_its_own_run_writes(graph):
    together = threading.Barrier(8)

    def write(state, config):
        together.wait(TIMEOUT)
        for _ in range(20):
            writer()(config["configurable"]["name"])

    compiled = graph.add_node(write).set_entry_point("write").compile()
    found = [in_thread(lambda name=name: custom(compiled, name=name)) for name in "abcdefgh"]
    assert [future.result(TIMEOUT) for future in found] == [[name] * 20 for name in "abcdefgh"]


def test_langgraph_a_node_does_not_wait_for_a_slow_consumer(graph):
    written = threading.Event()

    def write(state):
        for number in range(MANY):
            writer()(number)
        written.set()

    stream = graph.add_node(write).set_entry_point("write").compile().stream({"done": []}, stream_mode="custom")
    assert next(stream) == 0
    assert written.wait(TIMEOUT)  # while nobody reads
    assert len(list(stream)) == MANY - 1


def test_langgraph_a_node_that_is_tried_again_streams_its_text_again(graph):
    types = pytest.importorskip("langgraph.types")
    tries = []

    def write(state):
        tries.append(None)
        writer()("The tides ")
        if len(tries) == 1:
            raise ConnectionError
        writer()("turn.")

    retry = types.RetryPolicy(initial_interval=0, jitter=False, retry_on=ConnectionError)
    compiled = graph.add_node(write, retry_policy=retry).set_entry_point("write").compile()
    assert custom(compiled) == ["The tides ", "The tides ", "turn."]


def test_langgraph_a_node_that_failed_runs_again_from_its_beginning(graph, saver):
    called = []

    def article(state):
        called.append("research")
        if called.count("research") == 1:
            raise Failed
        return {"done": ["article"]}

    compiled = graph.add_node(article).set_entry_point("article").compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "one"}}
    with pytest.raises(Failed):
        compiled.invoke({"done": []}, config)
    assert compiled.invoke(None, config) == {"done": ["article"]}
    assert called == ["research", "research"]


def test_langgraph_a_task_that_finished_is_not_done_again(saver):
    func = pytest.importorskip("langgraph.func")
    called = []

    @func.task
    def research(topic: str) -> str:
        called.append(topic)
        return topic

    @func.entrypoint(checkpointer=saver)
    def article(topic: str) -> str:
        notes = research(topic).result()
        if not connected:
            raise Failed
        return notes.upper()

    config = {"configurable": {"thread_id": "one"}}
    connected = False
    with pytest.raises(Failed):
        article.invoke("tides", config)
    connected = True
    assert article.invoke(None, config) == "TIDES"
    assert called == ["tides"]


def test_langgraph_a_task_is_known_by_its_order_and_not_by_its_arguments(saver):
    func = pytest.importorskip("langgraph.func")
    called = []

    @func.task
    def research(topic: str) -> str:
        called.append(topic)
        return topic.upper()

    @func.entrypoint(checkpointer=saver)
    def article(_: str) -> list[str]:
        notes = [research(topic).result() for topic in topics]
        if len(topics) > 1:
            raise Failed
        return notes

    config = {"configurable": {"thread_id": "one"}}
    topics = ["tides", "moons"]
    with pytest.raises(Failed):
        article.invoke("begin", config)
    topics = ["winds"]
    assert article.invoke(None, config) == ["TIDES"]
    assert called == ["tides", "moons"]


def test_langgraph_a_node_that_succeeded_beside_one_that_failed_is_not_run_again(graph, saver):
    called, saved, save = [], threading.Event(), saver.put_writes

    def put_writes(config, writes, *rest):
        save(config, writes, *rest)
        if ("done", ["well"]) in writes:
            saved.set()

    def well(state):
        called.append("well")
        return {"done": ["well"]}

    def badly(state):
        called.append("badly")
        if called.count("badly") == 1:
            assert saved.wait(TIMEOUT)
            raise Failed
        return {"done": ["badly"]}

    saver.put_writes = put_writes
    for node in (well, badly):
        graph.add_node(node).add_edge("__start__", node.__name__)
    compiled = graph.compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "one"}}
    with pytest.raises(Failed):
        compiled.invoke({"done": []}, config)
    assert sorted(compiled.invoke(None, config)["done"]) == ["badly", "well"]
    assert sorted(called) == ["badly", "badly", "well"]


def test_langgraph_one_thread_id_may_be_carried_out_twice_at_once(graph, saver):
    both = threading.Barrier(2)

    def work(state):
        both.wait(TIMEOUT)  # which neither passes alone
        return {"done": ["work"]}

    compiled = graph.add_node(work).set_entry_point("work").compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "one"}}
    futures = [in_thread(compiled.invoke, {"done": []}, config) for _ in range(2)]
    assert [future.result(TIMEOUT)["done"] for future in futures] == [["work"], ["work"]]


def test_langgraph_a_graph_waits_for_a_human_and_is_edited(graph, saver):
    types = pytest.importorskip("langgraph.types")

    def ask(state):
        return {"done": [types.interrupt("publish?")]}

    compiled = graph.add_node(ask).set_entry_point("ask").compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "one"}}
    asked = compiled.invoke({"done": []}, config)
    assert asked["__interrupt__"][0].value == "publish?"
    assert compiled.invoke(types.Command(resume="yes"), config) == {"done": ["yes"]}
    compiled.update_state(config, {"done": ["and more"]})
    assert compiled.get_state(config).values == {"done": ["yes", "and more"]}
    assert len(list(compiled.get_state_history(config))) > 2


def test_langgraph_a_bare_thread_has_no_writer(graph):
    def write(state):
        with pytest.raises(RuntimeError, match="runnable context"):
            in_thread(writer).result(TIMEOUT)
        writer()("here it has")

    assert custom(graph.add_node(write).set_entry_point("write").compile()) == ["here it has"]


@dataclasses.dataclass
class Point:
    x: int


def test_langgraph_reading_a_checkpoint_makes_the_classes_that_it_names_unless_told_which(caplog):
    serde = pytest.importorskip("langgraph.checkpoint.serde.jsonplus").JsonPlusSerializer
    written = serde().dumps_typed(Point(1))
    assert serde(allowed_msgpack_modules=True).loads_typed(written) == Point(1)
    assert "unregistered" in caplog.text
    assert not isinstance(serde(allowed_msgpack_modules=None).loads_typed(written), Point)


def test_langgraph_a_graph_can_be_drawn(graph):
    def write(state):
        return {}

    drawn = graph.add_node(write).set_entry_point("write").compile().get_graph().draw_mermaid()
    assert "write" in drawn


def test_langchain_a_handler_that_raises_is_logged_unless_it_asks_to_be_heard(caplog):
    callbacks = pytest.importorskip("langchain_core.callbacks")
    runnables = pytest.importorskip("langchain_core.runnables")
    heard = []

    class Failing(callbacks.BaseCallbackHandler):
        def on_chain_start(self, *args, **kwargs):
            heard.append(self)
            raise Failed("of the handler")

    chain = runnables.RunnableLambda(str.upper)
    quiet, loud = [Failing(), Failing()], Failing()
    assert chain.invoke("tides", {"callbacks": list(quiet)}) == "TIDES"
    assert heard == quiet
    assert "Failing" in caplog.text
    assert "Failed" in caplog.text
    loud.raise_error = True
    with pytest.raises(Failed):
        chain.invoke("tides", {"callbacks": [loud]})


# crewAI; more is shown in plugins/crewbus-crewai/tests


def test_crewai_a_flow_does_not_wait_for_a_slow_consumer():
    flow = pytest.importorskip("crewai.flow.flow")
    events = pytest.importorskip("crewai.events.event_bus")
    types = pytest.importorskip("crewai.events.types.llm_events")
    written = threading.Event()

    class Writing(flow.Flow):
        stream = True

        @flow.start()
        def write(self):
            for number in range(MANY):
                chunk = types.LLMStreamChunkEvent(chunk=str(number), call_id="one")
                events.crewai_event_bus.emit(self, chunk)
            written.set()

    frames = iter(Writing().kickoff())
    first = next(frames)
    assert written.wait(TIMEOUT)  # while nobody reads
    assert [frame.content for frame in (first, *frames) if frame.content] == [str(number) for number in range(MANY)]


# LlamaIndex: instrumentation


@pytest.fixture
def dispatcher(request) -> Any:
    instrumentation = pytest.importorskip("llama_index_instrumentation")
    made = instrumentation.get_dispatcher(f"tests.{request.node.name}")
    made.propagate = False
    return made


def handling(handle: Callable[[Any], None]) -> Any:
    """An event handler that calls ``handle``."""
    from llama_index_instrumentation.event_handlers import BaseEventHandler

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **_: Any) -> None:
            handle(event)

    return Handler()


def noted() -> Any:
    """An event."""
    from llama_index_instrumentation.base import BaseEvent

    return BaseEvent()


@pytest.mark.parametrize("error", [Failed, KeyboardInterrupt])
def test_llamaindex_what_an_event_handler_raises_is_swallowed_without_a_word(dispatcher, caplog, capfd, error):
    heard = []

    def fail(event):
        heard.append(event)
        raise error

    for _ in range(2):
        dispatcher.add_event_handler(handling(fail))
    dispatcher.event(noted())
    assert len(heard) == 2
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


def test_llamaindex_a_handler_gets_the_events_of_all_runs_and_distinguishes_them_by_their_span(dispatcher):
    heard = []
    dispatcher.add_event_handler(handling(lambda event: heard.append(event.span_id)))

    @dispatcher.span
    def run():
        dispatcher.event(noted())

    run()
    run()
    assert len(set(heard)) == 2
    assert None not in heard


def test_llamaindex_an_event_of_a_bare_thread_has_no_span(dispatcher):
    heard = []
    dispatcher.add_event_handler(handling(lambda event: heard.append(event.span_id)))

    @dispatcher.span
    def run():
        in_thread(lambda: dispatcher.event(noted())).result(TIMEOUT)

    run()
    assert heard == [None]


def test_llamaindex_tags_travel_to_another_process(dispatcher):
    from llama_index_instrumentation.dispatcher import instrument_tags

    heard = []
    dispatcher.add_event_handler(handling(lambda event: heard.append(event.tags)))
    with instrument_tags({"tenant": "acme"}):
        carried = dispatcher.capture_propagation_context()

    def elsewhere():
        dispatcher.restore_propagation_context(carried)
        dispatcher.event(noted())

    in_thread(elsewhere).result(TIMEOUT)
    assert heard == [{"tenant": "acme"}]


# LlamaIndex: workflows


@pytest.fixture
def workflow() -> Any:
    """Makes a workflow of one step, which calls a function with its context."""
    workflows = pytest.importorskip("workflows")
    events = pytest.importorskip("workflows.events")

    def make(function: Callable[[Any, int], Any], **options: Any) -> Any:
        class Writing(workflows.Workflow):
            @workflows.step(**options)
            async def write(self, ctx: workflows.Context, begin: events.StartEvent) -> events.StopEvent:
                return events.StopEvent(result=function(ctx, begin.get("number")))

        return Writing(timeout=None)

    return make


def text_event(text: Any) -> Any:
    from workflows.events import Event

    return Event(text=text)


async def texts(handler: Any) -> list[Any]:
    return [event.text async for event in handler.stream_events() if hasattr(event, "text")]


def test_workflows_a_stream_has_what_its_own_run_writes(workflow):
    def write(ctx, number):
        for _ in range(20):
            ctx.write_event_to_stream(text_event(number))

    async def main():
        made = workflow(write)
        handlers = [made.run(number=number) for number in range(8)]
        return await asyncio.gather(*map(texts, handlers))

    assert asyncio.run(main()) == [[number] * 20 for number in range(8)]


def test_workflows_a_step_does_not_wait_for_a_slow_consumer(workflow):
    def write(ctx, number):
        for n in range(MANY):
            ctx.write_event_to_stream(text_event(n))

    async def main():
        handler = workflow(write).run(number=0)
        await handler  # while nobody reads
        return await texts(handler)

    assert asyncio.run(main()) == list(range(MANY))


def test_workflows_a_step_that_is_tried_again_streams_its_text_again(workflow):
    retry_policy = pytest.importorskip("workflows.retry_policy")
    tries = []

    def write(ctx, number):
        tries.append(None)
        ctx.write_event_to_stream(text_event("The tides "))
        if len(tries) == 1:
            raise ConnectionError
        ctx.write_event_to_stream(text_event("turn."))

    async def main():
        retry = retry_policy.retry_policy(wait=retry_policy.wait_fixed(0), stop=retry_policy.stop_after_attempt(2))
        return await texts(workflow(write, retry_policy=retry).run(number=0))

    assert asyncio.run(main()) == ["The tides ", "The tides ", "turn."]


def test_workflows_a_stream_is_read_once(workflow):
    errors = pytest.importorskip("workflows.errors")

    async def main():
        handler = workflow(lambda ctx, number: ctx.write_event_to_stream(text_event(number))).run(number=1)
        assert await texts(handler) == [1]
        with pytest.raises(errors.WorkflowRuntimeError, match="consumed"):
            await texts(handler)

    asyncio.run(main())


def test_workflows_a_context_continues_elsewhere_and_the_step_in_progress_starts_again():
    workflows = pytest.importorskip("workflows")
    events = pytest.importorskip("workflows.events")
    called = []

    class Article(workflows.Workflow):
        @workflows.step
        async def research(self, begin: events.StartEvent) -> events.HumanResponseEvent:
            called.append("research")
            return events.HumanResponseEvent(text="the moon")

        @workflows.step
        async def write(self, notes: events.HumanResponseEvent) -> events.StopEvent:
            called.append("write")
            if called.count("write") == 1:
                writing.set()
                await asyncio.Event().wait()
            return events.StopEvent(result=notes.text)

    async def main():
        handler = Article(timeout=None).run()
        await asyncio.wait_for(writing.wait(), TIMEOUT)
        saved = handler.ctx.to_dict()
        await handler.cancel_run()
        made = Article(timeout=None)
        return await made.run(ctx=workflows.Context.from_dict(made, saved))

    writing = asyncio.Event()
    assert asyncio.run(main()) == "the moon"
    assert called == ["research", "write", "write"]


def test_workflows_a_workflow_waits_for_a_human():
    workflows = pytest.importorskip("workflows")
    events = pytest.importorskip("workflows.events")

    class Article(workflows.Workflow):
        @workflows.step
        async def ask(self, begin: events.StartEvent) -> events.InputRequiredEvent:
            return events.InputRequiredEvent(prefix="publish?")

        @workflows.step
        async def publish(self, answer: events.HumanResponseEvent) -> events.StopEvent:
            return events.StopEvent(result=answer.response)

    async def main():
        handler = Article(timeout=None).run()
        async for event in handler.stream_events():
            if isinstance(event, events.InputRequiredEvent):
                assert event.prefix == "publish?"
                await handler.send_event(events.HumanResponseEvent(response="yes"))
        return await handler

    assert asyncio.run(main()) == "yes"


def test_workflows_reading_a_context_imports_what_it_names_unless_told_what(tmp_path, monkeypatch):
    serializers = pytest.importorskip("workflows.context.serializers")
    (tmp_path / "named_in_the_data.py").write_text("raise SystemError('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    data = '{"__is_pydantic": true, "value": {}, "qualified_name": "named_in_the_data.Anything"}'
    with pytest.raises(SystemError, match="executed"):
        serializers.JsonSerializer().deserialize(data)
    with pytest.raises(ValueError, match="allowed types"):
        serializers.JsonSerializer(allowed_types=[]).deserialize(data)


# DBOS

OLDEST_SQLITE = (3, 42, 0)
"""What DBOS's schema needs."""


def dbos_config(path: Any) -> dict[str, Any]:
    """On an SQLite file, with the SQLite of pysqlite3 where Python's own is too old."""
    config: dict[str, Any] = {"name": "tests", "system_database_url": f"sqlite:///{path}", "log_level": "CRITICAL"}
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        config["db_engine_kwargs"] = {"module": pytest.importorskip("pysqlite3")}
    return config


@pytest.fixture
def launched(tmp_path) -> Iterator[Any]:
    """Launches DBOS, whose workflows and steps have been declared by then."""
    dbos = pytest.importorskip("dbos")
    dbos.DBOS(config=dbos_config(tmp_path / "dbos.db"))
    yield dbos
    dbos.DBOS.destroy(destroy_registry=True)


def test_dbos_a_step_is_known_by_its_place_and_name_and_not_by_its_arguments(launched):
    called = []

    @launched.DBOS.step()
    def research(topic):
        called.append(topic)
        return topic

    @launched.DBOS.step()
    def write(notes):
        return notes.upper()

    @launched.DBOS.workflow()
    def article():
        return write(research(topic))

    launched.DBOS.launch()
    topic = "tides"
    first = launched.DBOS.start_workflow(article)
    assert first.get_result() == "TIDES"
    topic = "moons"
    assert launched.DBOS.fork_workflow(first.get_workflow_id(), 2).get_result() == "TIDES"
    assert called == ["tides"]


def test_dbos_another_step_than_the_one_recorded_is_an_error(launched):
    @launched.DBOS.step()
    def research():
        return "research"

    @launched.DBOS.step()
    def rewrite():
        return "rewrite"

    @launched.DBOS.workflow()
    def article():
        return [step() for step in steps]

    launched.DBOS.launch()
    steps = [research, rewrite]
    first = launched.DBOS.start_workflow(article)
    assert first.get_result() == ["research", "rewrite"]
    steps = [rewrite, research]
    with pytest.raises(Exception, match="rewrite") as raised:
        launched.DBOS.fork_workflow(first.get_workflow_id(), 3).get_result()
    assert type(raised.value).__name__ == "DBOSUnexpectedStepError"


def test_dbos_a_step_that_is_tried_again_streams_its_text_again(launched):
    tries = []

    @launched.DBOS.step(retries_allowed=True, interval_seconds=0, max_attempts=2)
    def write():
        tries.append(None)
        launched.DBOS.write_stream("text", "The tides ")
        if len(tries) == 1:
            raise ConnectionError
        launched.DBOS.write_stream("text", "turn.")

    @launched.DBOS.workflow()
    def article():
        write()
        launched.DBOS.close_stream("text")

    launched.DBOS.launch()
    handle = launched.DBOS.start_workflow(article)
    assert list(launched.DBOS.read_stream(handle.get_workflow_id(), "text")) == ["The tides ", "The tides ", "turn."]
    assert list(
        launched.DBOS.read_stream(handle.get_workflow_id(), "text")
    )  # it is kept, and read as often as one likes
    handle.get_result()


class Pickled:
    def __reduce__(self):
        return os.path.basename, ("what/is/executed",)


def test_dbos_reading_a_result_unpickles_it_unless_told_otherwise(launched):
    @launched.DBOS.workflow()
    def article():
        return Pickled()

    launched.DBOS.launch()
    handle = launched.DBOS.start_workflow(article)
    handle.get_result()
    assert launched.DBOS.retrieve_workflow(handle.get_workflow_id()).get_result() == "executed"


def test_dbos_workflows_wait_in_queues_and_for_messages(launched):
    @launched.DBOS.workflow()
    def article():
        return launched.DBOS.recv("answer", timeout_seconds=TIMEOUT)

    launched.DBOS.launch()
    launched.DBOS.register_queue("press", concurrency=1)
    handle = launched.DBOS.enqueue_workflow("press", article)
    launched.DBOS.send(handle.get_workflow_id(), "publish", "answer")
    assert handle.get_result() == "publish"


HEAD = """
import os, sys
from dbos import DBOS, SetWorkflowID
"""
TAIL = """
config = {config!r}
if {patched}:
    import pysqlite3
    config["db_engine_kwargs"] = {{"module": pysqlite3}}
DBOS(config={{**config, "executor_id": sys.argv[1]}})
DBOS.launch()
"""

SHARED = """
@DBOS.workflow()
def article():
    print("carried out by", sys.argv[1], flush=True)
    sys.stdin.readline()
    return "a result of " + sys.argv[1]
"""
SHARING = """
with SetWorkflowID("one"):
    print(article(), flush=True)
DBOS.destroy()
"""

KILLED = """
@DBOS.step()
def research():
    print("research", flush=True)

@DBOS.step()
def write():
    if len(sys.argv) > 2:
        os._exit(9)
    return "written"

@DBOS.workflow()
def article():
    research()
    return write()
"""
RECOVERING = """
if len(sys.argv) > 2:
    with SetWorkflowID("one"):
        article()
print(DBOS.retrieve_workflow("one").get_result(), flush=True)
DBOS.destroy()
"""


@pytest.fixture
def process(tmp_path) -> Iterator[Callable[..., Any]]:
    """Starts processes that use DBOS, with one database: by what they declare, what they do, and their arguments."""
    pytest.importorskip("dbos")
    config = dbos_config(tmp_path / "dbos.db")
    tail = TAIL.format(patched=config.pop("db_engine_kwargs", None) is not None, config=config)
    started = []

    def start(declares: str, does: str, *args: str) -> subprocess.Popen[str]:
        code = HEAD + declares + tail + does
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen([sys.executable, "-c", code, *args], text=True, cwd=tmp_path, **pipes))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_dbos_a_workflow_id_is_carried_out_once_and_the_second_process_gets_the_firsts_result(process):
    first = process(SHARED, SHARING, "first")
    assert first.stdout.readline() == "carried out by first\n"
    second = process(SHARED, SHARING, "second")
    first.stdin.write("\n")
    assert first.communicate(timeout=4 * TIMEOUT)[0] == "a result of first\n"
    assert second.communicate(timeout=4 * TIMEOUT)[0] == "a result of first\n"


def test_dbos_resumes_killed_workflows_by_itself_when_it_is_launched_again(process):
    assert process(KILLED, RECOVERING, "here", "killed").communicate(timeout=4 * TIMEOUT)[0] == "research\n"
    assert process(KILLED, RECOVERING, "here").communicate(timeout=4 * TIMEOUT)[0] == "written\n"
