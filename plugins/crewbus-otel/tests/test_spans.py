"""Every span ends once, under the right parent, however its scope is left, and wherever its code runs."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from contextvars import Context, copy_context

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from otel_helpers import TIMEOUT, Exported, traced

import crewbus
from crewbus_otel import span_id_of, trace_id_of, trace_tags


@crewbus.step
def ask(text):
    crewbus.chunk(text)
    return text


def test_runs_calls_and_steps_are_spans():
    with traced() as (bus, exported), bus.run("newsroom", tags={"tenant": "a"}) as outer, bus.run("researcher"):
        with bus.call("m") as call:
            call.finish(usage={"input_tokens": 3}, cost=0.5)
        ask("x")
    assert exported.tree() == {
        "m": "invoke_agent researcher",
        "step ask": "invoke_agent researcher",
        "invoke_agent researcher": "invoke_workflow newsroom",
        "invoke_workflow newsroom": None,
    }
    root = exported.span("invoke_workflow newsroom").attributes
    assert (root["gen_ai.workflow.name"], root["crewbus.run.id"], root["crewbus.tag.tenant"]) == (
        "newsroom",
        outer.id,
        "a",
    )
    called = exported.span("m").attributes
    assert (called["gen_ai.usage.input_tokens"], called["crewbus.cost"]) == (3, 0.5)
    assert {span.attributes["crewbus.outcome"] for span in exported.spans} == {"finished"}


def test_chunks_are_counted_and_timed_and_are_no_spans():
    with traced() as (bus, exported), bus.run("r"), bus.call("m") as call:
        with call.attempt():
            bus.chunk("a")
        bus.chunk("b")
        bus.emit(crewbus.Chunk("c"))
    attributes = exported.span("m").attributes
    assert attributes["crewbus.chunks"] == 3
    assert 0 <= attributes["gen_ai.response.time_to_first_chunk"] < TIMEOUT
    assert "crewbus.chunks" not in exported.span("invoke_agent r").attributes
    assert len(exported.spans) == 2


def test_attempts_retractions_and_checkpoints_are_events():
    with traced(crewbus.MemoryStore()) as (bus, exported), bus.run("r") as run:
        with pytest.raises(ValueError, match="no"), run.attempt():
            bus.chunk("a")
            raise ValueError("no")
        run.checkpoint("here")
    told = [event.name for event in exported.span("invoke_agent r").events]
    assert told[0] == "crewbus.attempt"
    assert {"crewbus.retracted", "crewbus.attempt.ended", "crewbus.checkpoint"} == {*told[1:]}


def test_failures_and_cancellations():
    with traced() as (bus, exported):
        with pytest.raises(ValueError, match="no"), bus.run("failed"), bus.call("bad"):
            raise ValueError("no")
        with pytest.raises(crewbus.RunCancelledError), bus.run("stopped") as run, bus.call("slow"):
            run.cancel("enough")
            bus.chunk("x")
    for name in ("invoke_agent failed", "bad"):
        assert exported.span(name).status.status_code is StatusCode.ERROR
        assert exported.span(name).attributes["error.type"] == "ValueError"
    for name in ("invoke_agent stopped", "slow"):
        assert exported.span(name).status.status_code is StatusCode.UNSET
        assert exported.span(name).attributes["crewbus.outcome"] == "cancelled"


def test_what_is_never_ended_ends_with_its_run_or_with_the_bus():
    with traced() as (bus, exported):
        with bus.run("r"):
            bus.call("open").start()
        assert exported.span("open").attributes["crewbus.outcome"] == "unfinished"
        bus.call("outside").start()
        bus.run("left").start()
    assert exported.span("outside").attributes["crewbus.outcome"] == "unfinished"
    assert exported.span("invoke_agent left").attributes["crewbus.outcome"] in ("unfinished", "cancelled")
    assert len(exported.spans) == 4


# What is current


def current() -> int:
    return trace.get_current_span().get_span_context().span_id


def test_the_span_is_current_for_the_code_inside_and_only_there():
    with traced() as (bus, exported):
        found = {"before": current()}
        with bus.run("r"):
            found["invoke_agent r"] = current()
            with bus.call("m"):
                found["m"] = current()
            found["after"] = current()
        found["left"] = current()
    assert found["before"] == found["left"] == 0
    assert found["after"] == found["invoke_agent r"]
    for name in ("invoke_agent r", "m"):
        assert exported.span(name).context.span_id == found[name]


def test_streamed_and_submitted_code_and_threads():
    with traced() as (bus, exported):
        found = {}

        def agent():
            found["invoke_agent agent"] = current()
            with bus.call("m"):
                thread = crewbus.Thread(target=lambda: found.update(m=current()))
                thread.start()
                thread.join(TIMEOUT)
                assert bus.submit(current).result(TIMEOUT) == found["m"]
            bus.chunk("x")

        with bus.stream(agent) as stream:
            stream.result()
    (run,) = [span for span in exported.spans if span.name.startswith("invoke_agent")]
    assert run.context.span_id == found["invoke_agent agent"]
    assert exported.span("m").context.span_id == found["m"]
    assert exported.span("m").parent.span_id == run.context.span_id


def test_concurrent_tasks_keep_their_spans_apart():
    async def agent(bus, number, found):
        async with bus.run(f"r{number}"):
            with bus.call(f"m{number}"):
                await asyncio.sleep(0)
                found[f"m{number}"] = current()
                await asyncio.sleep(0)
            found[f"invoke_agent r{number}"] = current()

    async def main(bus, found):
        await asyncio.gather(*(agent(bus, number, found) for number in range(20)))

    with traced() as (bus, exported):
        found = {}
        asyncio.run(main(bus, found))
    assert {span.name: span.context.span_id for span in exported.spans} == found
    assert exported.tree() == {
        **{f"m{number}": f"invoke_agent r{number}" for number in range(20)},
        **{f"invoke_agent r{number}": None for number in range(20)},
    }


def test_a_generator_that_is_closed_in_another_context():
    def agent(bus):
        with bus.run("r"), bus.call("m"):
            yield current()
            yield None

    with traced() as (bus, exported):
        generator = agent(bus)
        inside = copy_context().run(next, generator)
        Context().run(generator.close)
        assert current() == 0
    assert exported.span("m").context.span_id == inside
    assert {span.attributes["crewbus.outcome"] for span in exported.spans} == {"cancelled"}


def test_generators_that_take_turns():
    def agent(bus, name):
        with bus.run(name):
            yield
            yield

    with traced() as (bus, exported):
        first, second = agent(bus, "first"), agent(bus, "second")
        next(first)
        with bus.run("around"):
            next(second)
            first.close()
            second.close()
        assert current() == 0
    assert len(exported.spans) == 3


def test_an_abandoned_stream():
    entered = threading.Event()

    def agent(bus):
        with bus.call("m"):
            entered.set()
            while True:
                bus.chunk("x")

    with traced() as (bus, exported), bus.stream(agent, bus) as stream:
        assert next(iter(stream)).event.text == "x"
        assert entered.wait(TIMEOUT)
    assert {span.attributes["crewbus.outcome"] for span in exported.spans} == {"cancelled"}
    assert len(exported.spans) == 2


def test_an_asynchronous_stream_that_is_left_early():
    async def agent(bus):
        with bus.call("m"):
            while True:
                await bus.achunk("x")

    async def main(bus):
        async with bus.stream(agent, bus) as stream:
            async for _ in stream:
                break

    with traced() as (bus, exported):
        asyncio.run(main(bus))
    assert {span.attributes["crewbus.outcome"] for span in exported.spans} == {"cancelled"}
    assert len(exported.spans) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_ends_none_of_its_parents_spans():
    with traced() as (bus, exported), bus.run("r"), bus.call("m"):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with bus.run("child"):
                    pass
                names = [span.name for span in exported.spans]
                status = 0 if names == ["invoke_agent child"] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert exported.tree() == {"m": "invoke_agent r", "invoke_agent r": None}


# Traces


def test_the_callers_span_is_the_parent_and_its_trace_is_kept_in_the_record():
    with traced(crewbus.MemoryStore()) as (bus, exported):
        with exported.tracers.get_tracer("app").start_as_current_span("request") as request:
            with bus.run("r", id="r1"):
                pass
        tags = bus.records.info("r1").tags
    assert exported.tree() == {"invoke_agent r": "request", "request": None}
    assert format(request.get_span_context().trace_id, "032x") in tags["traceparent"]


def test_a_run_with_a_traceparent_in_its_tags():
    with traced() as (bus, exported):
        with exported.tracers.get_tracer("app").start_as_current_span("request"):
            tags = trace_tags()
        with bus.run("r", tags=tags):
            pass
        assert trace_tags() == {}
    assert exported.tree() == {"invoke_agent r": "request", "request": None}


def test_a_trace_id_follows_from_the_run_id():
    with traced(crewbus.MemoryStore()) as (bus, exported), bus.run("r", id="run-7"):
        pass
    context = exported.span("invoke_agent r").context
    assert format(context.trace_id, "032x") == trace_id_of("run-7") == "99deac5fb0832319506c5eb0fd1c0644"
    assert format(context.span_id, "016x") == span_id_of("run-7")


def test_a_resumed_run_and_a_fork_are_new_traces_with_links():
    store, first = crewbus.MemoryStore(), None
    with traced(store) as (bus, exported), pytest.raises(crewbus.RunSuspendedError):
        with exported.tracers.get_tracer("app").start_as_current_span("request"), bus.run("r", id="r1") as run:
            ask("a")
            run.suspend("later")
            ask("b")
    first = exported.span("invoke_agent r").context
    assert format(first.span_id, "016x") == span_id_of("r1")

    with traced(store) as (bus, exported), bus.resume("r1"):
        ask("a")
        ask("b")
    assert sorted(span.name for span in exported.spans) == ["invoke_agent r", "step ask"]  # the second one alone
    again = exported.span("invoke_agent r")
    assert format(again.context.trace_id, "032x") == trace_id_of("r1", 2)
    assert [(link.context.trace_id, link.context.span_id) for link in again.links] == [(first.trace_id, first.span_id)]

    with traced(store) as (bus, exported):
        fork = bus.fork("r1")
        with bus.resume(fork):
            ask("a")
            ask("b")
    forked = exported.span("invoke_agent r")
    assert format(forked.context.trace_id, "032x") == trace_id_of(fork)
    assert [(link.context.trace_id, link.context.span_id) for link in forked.links] == [(first.trace_id, first.span_id)]


def test_a_resume_in_another_process(tmp_path):
    pytest.importorskip("crewbus_sqlite")
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    script = """
        import os, sys
        import crewbus
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
        from crewbus_otel import OpenTelemetry

        def line(span):
            traces = [span.context.trace_id, *(link.context.trace_id for link in span.links)]
            return " ".join([span.name, *(format(trace, "032x") for trace in traces)]) + chr(10)

        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))
        bus = crewbus.Bus(["sqlite", ("otel", OpenTelemetry(provider))], strict=True)
        bus.enable_recording(sys.argv[1])
        first = sys.argv[2] == "first"
        with bus.run("r", id="r1") if first else bus.resume("r1") as run:
            run.step("one", lambda: 1)
            if first:
                bus.flush()
                os._exit(9)
            run.step("two", lambda: 2)
        bus.close()
    """

    def process(which):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", textwrap.dedent(script), url, which]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()

    assert process("first") == (9, [f"step one {trace_id_of('r1')}"])
    assert process("second") == (
        0,
        [f"step two {trace_id_of('r1', 2)}", f"invoke_agent r {trace_id_of('r1', 2)} {trace_id_of('r1')}"],
    )


# The plugin


def test_without_a_provider_nothing_is_observed():
    with crewbus.Bus(["crewbus_otel:OpenTelemetry"], entry_points=False, strict=True) as bus:
        with bus.run("r"):
            pass
        assert not bus.plugins.has_plugin("otel_observer")


def test_a_provider_may_be_set_after_the_bus_was_made(monkeypatch):
    exported = Exported()
    with crewbus.Bus(["crewbus_otel:OpenTelemetry"], entry_points=False, strict=True) as bus:
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: exported.tracers)
        with bus.run("r"):
            pass
    assert exported.tree() == {"invoke_agent r": None}


def test_unregistering_it_stops_it():
    with traced() as (bus, exported):
        with bus.run("first"):
            pass
        bus.plugins.unregister(name="otel")
        assert not bus.plugins.has_plugin("otel_observer")
        with bus.run("second"):
            pass
    assert exported.tree() == {"invoke_agent first": None}


def test_kinds_of_spans():
    with traced() as (bus, exported), bus.run("r"), bus.call("m"):
        pass
    assert {span.kind for span in exported.spans} == {SpanKind.INTERNAL}


# What is kept


def test_calls_that_nothing_ends_are_not_kept_for_ever():
    with traced() as (bus, exported):
        observer = bus.plugins.get_plugin("otel_observer")
        for number in range(1100):
            bus.call(f"outside {number}").start()
        assert len(observer._by_id) == 1000
        assert len(exported.spans) == 100
        for _ in range(20):
            with bus.run("r") as run:
                bus.call("inside").start()
                with run.attempt():
                    pass
        assert len(observer._by_id) == 1000
    assert len(exported.spans) == 1100 + 40


def test_an_attempt_that_has_ended_is_not_kept():
    with traced() as (bus, _), bus.run("r") as run:
        observer = bus.plugins.get_plugin("otel_observer")
        for _ in range(50):
            with run.attempt():
                bus.chunk("x")
        assert len(observer._by_id) == 1


def test_a_finaliser_that_ends_a_call_while_another_span_ends():
    """The locks of OpenTelemetry's SDK are not re-entrant."""

    def agent(bus):
        with bus.call("left"):
            yield

    class Collecting(SpanProcessor):
        def __init__(self):
            self.held, self.busy, self.names = [], False, []

        def on_end(self, span):
            assert not self.busy
            self.busy = True
            self.held.clear()
            gc.collect()
            self.names.append(span.name)
            self.busy = False

    with traced() as (bus, exported):
        processor = Collecting()
        exported.tracers.add_span_processor(processor)
        processor.held.append(agent(bus))
        next(processor.held[0])
        with bus.call("m"):
            pass
    assert processor.names == ["m", "left"]


def test_interrupts_end_the_spans():
    with traced() as (bus, exported):
        with pytest.raises(KeyboardInterrupt), bus.run("r"), bus.call("m"):
            raise KeyboardInterrupt
        assert current() == 0
    assert {span.name: span.attributes["crewbus.outcome"] for span in exported.spans} == {
        "m": "cancelled",
        "invoke_agent r": "cancelled",
    }
