"""Calls by the conventions: names, kinds and attributes of spans, metrics, content; of 1.41, and of the newest."""

from __future__ import annotations

import json

import pytest
from opentelemetry.trace import SpanKind
from otel_helpers import traced

import crewbus
from crewbus_otel import conventions, trace_tags

CALLS = [
    ("model", "chat gpt-5", SpanKind.CLIENT, {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5"}),
    (
        "embedding",
        "embeddings gpt-5",
        SpanKind.CLIENT,
        {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "gpt-5"},
    ),
    (
        "retrieval",
        "retrieval gpt-5",
        SpanKind.CLIENT,
        {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": "gpt-5"},
    ),
    (
        "tool",
        "execute_tool gpt-5",
        SpanKind.INTERNAL,
        {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "gpt-5"},
    ),
    (
        "agent",
        "invoke_agent gpt-5",
        SpanKind.INTERNAL,
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "gpt-5"},
    ),
    ("lookup", "gpt-5", SpanKind.INTERNAL, {}),
    (None, "gpt-5", SpanKind.INTERNAL, {}),
]
LATEST = {"OTEL_SEMCONV_STABILITY_OPT_IN": "http,gen_ai_latest_experimental"}
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def gen_ai(span) -> dict:
    return {name: value for name, value in span.attributes.items() if name.startswith("gen_ai.")}


@pytest.mark.parametrize(("kind", "name", "span_kind", "attributes"), CALLS, ids=[str(case[0]) for case in CALLS])
def test_each_kind_of_call(kind, name, span_kind, attributes):
    with traced() as (bus, exported), bus.call("gpt-5", kind=kind):
        pass
    (span,) = exported.spans
    assert (span.name, span.kind, gen_ai(span)) == (name, span_kind, attributes)


def test_attributes_get_the_names_of_the_conventions():
    given = {"model": "gpt-5-mini", "provider": "openai", "my.own": 1, "seats": [1, {}], "nothing": None}
    with traced() as (bus, exported), bus.call("llm", kind="model", attributes=given) as call:
        call.set_attributes(response_model="gpt-5-mini-2026", finish_reasons=["stop"])
        call.finish(
            usage={"input_tokens": 9, "cached_input_tokens": 4, "output_tokens": 2, "reasoning_tokens": 1, "x": 5}
        )
    (span,) = exported.spans
    assert span.name == "chat gpt-5-mini"
    assert gen_ai(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.provider.name": "openai",
        "gen_ai.response.model": "gpt-5-mini-2026",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.reasoning.output_tokens": 1,
    }
    assert span.attributes["crewbus.call.name"] == "llm"
    assert (span.attributes["my.own"], span.attributes["crewbus.call.seats"]) == (1, "[1, {}]")
    assert span.attributes["crewbus.usage.x"] == 5


@pytest.mark.parametrize(
    ("setting", "outermost"), [({}, {"gen_ai.workflow.name": "flow", "gen_ai.agent.name": "flow"}), (LATEST, {})]
)
def test_the_name_of_a_workflow(monkeypatch, setting, outermost):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    with traced() as (bus, exported), bus.run("flow"), bus.run("agent"):
        pass
    expected = {"gen_ai.operation.name": "invoke_workflow", "gen_ai.agent.name": "flow", **outermost}
    assert gen_ai(exported.span("invoke_workflow flow")) == expected


def do_everything(bus):
    usage = {"input_tokens": 9, "cached_input_tokens": 4, "output_tokens": 2, "reasoning_tokens": 1}
    with bus.run("agent"):
        with bus.call("gpt-5", kind="model", attributes={"provider": "openai"}) as call:
            call.finish(usage=usage)
        with pytest.raises(ValueError, match="no"), bus.call("search", kind="tool"):
            raise ValueError("no")


def points(exported, metric, value) -> list:
    return [({**point.attributes}, getattr(point, value)) for point in exported.metrics()[metric]]


def test_metrics_of_1_41():
    with traced() as (bus, exported):
        do_everything(bus)
        with bus.run("open"):
            assert [point.value for point in exported.metrics()["crewbus.runs.active"]] == [1]
    model = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.provider.name": "openai",
    }
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search", "error.type": "ValueError"}
    found = points(exported, "gen_ai.client.operation.duration", "count")
    assert found == [(model, 1), (tool, 1), ({"gen_ai.operation.name": "invoke_agent"}, 2)]
    assert points(exported, "gen_ai.client.token.usage", "sum") == [
        ({**model, "gen_ai.token.type": "input"}, 9),
        ({**model, "gen_ai.token.type": "output"}, 2),
    ]


def test_metrics_of_the_newest(monkeypatch):
    monkeypatch.setenv(*next(iter(LATEST.items())))
    with traced() as (bus, exported):
        do_everything(bus)
    counted = {
        name: [point.count for point in found] for name, found in exported.metrics().items() if "duration" in name
    }
    assert counted == {
        "gen_ai.client.inference.duration": [1],
        "gen_ai.execute_tool.duration": [1],
        "gen_ai.invoke_agent.duration": [1],
    }
    tokens = {
        name.removeprefix("gen_ai.client.inference.usage."): [point.value for point in found]
        for name, found in exported.metrics().items()
        if "tokens" in name
    }
    assert tokens == {
        "input_tokens": [9],
        "output_tokens": [2],
        "cache_read.input_tokens": [4],
        "reasoning.output_tokens": [1],
    }


def test_metrics_of_the_store():
    with traced(crewbus.MemoryStore()) as (bus, exported):
        with bus.run("r"):
            pass
        bus.flush()
        assert sum(point.count for point in exported.metrics()["crewbus.store.commit.duration"]) == 1


def test_a_lost_lease():
    with traced(crewbus.MemoryStore()) as (bus, exported):
        with pytest.raises(crewbus.FencedError), bus.run(id="a") as run:
            bus.store.revoke("a")
            bus.store.acquire("a")
            run.chunk("refused")
        assert [point.value for point in exported.metrics()["crewbus.store.lost_leases"]] == [1]


def call_with_content(bus):
    with bus.call("gpt-5", kind="model", input=[{"role": "system", "content": "Be brief."}, "Hi"]) as call:
        call.finish("Hello")
    with bus.call("search", kind="tool", input={"q": "tides"}) as call:
        call.finish(["a"])


@pytest.mark.parametrize("setting", [None, "false", "no_content", "event_only"])
def test_content_is_no_attribute_unless_asked_for(monkeypatch, setting):
    if setting is not None:
        monkeypatch.setenv(CONTENT, setting)
    with traced() as (bus, exported):
        call_with_content(bus)
    assert all("Hi" not in str(span.attributes) and "tides" not in str(span.attributes) for span in exported.spans)


@pytest.mark.parametrize("setting", ["true", "SPAN_ONLY", "span_and_event"])
def test_content_where_it_is_asked_for(monkeypatch, setting):
    monkeypatch.setenv(CONTENT, setting)
    with traced() as (bus, exported):
        call_with_content(bus)
    model, tool = exported.span("chat gpt-5").attributes, exported.span("execute_tool search").attributes
    assert json.loads(model["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Hi"}]},
    ]
    assert json.loads(model["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Hello"}]}
    ]
    assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"q": "tides"}
    assert json.loads(tool["gen_ai.tool.call.result"]) == ["a"]


def test_what_is_redacted_is_not_exported(monkeypatch):
    monkeypatch.setenv(CONTENT, "true")

    class Redactor:
        @crewbus.hookimpl
        def crewbus_redact(self, event):
            return crewbus.CallStarted(event.name, event.kind) if isinstance(event, crewbus.CallStarted) else None

    with traced() as (bus, exported):
        bus.plugins.register(Redactor())
        with bus.call("gpt-5", kind="model", input="secret"):
            pass
    assert "secret" not in str(exported.span("chat gpt-5").attributes)


def test_prometheus_shows_the_same_names():
    prometheus = pytest.importorskip("prometheus_client")
    exposition = pytest.importorskip("crewbus_metrics.prometheus")
    registry = prometheus.CollectorRegistry()
    with crewbus.Bus([exposition.Prometheus(registry)], entry_points=False, strict=True):
        shown = {metric.name for metric in registry.collect()}
    with traced(crewbus.MemoryStore()):
        pass
    units = {"s": "_seconds", "By": "_bytes"}
    ours = {
        conventions.ACTIVE_RUNS: "",
        conventions.BACKLOG_EVENTS: "",
        conventions.BACKLOG_BYTES: "By",
        conventions.BACKLOG_AGE: "s",
        conventions.COMMIT_DURATION: "s",
        conventions.DROPPED_FRAMES: "",
        conventions.LOST_LEASES: "",
        conventions.QUEUE_LENGTH: "",
        conventions.QUEUE_AGE: "s",
        conventions.V1_41.durations["chat"]: "s",
        conventions.V1_41.tokens["input_tokens"]: "",
    }
    assert shown == {name.replace(".", "_") + units.get(unit, "") for name, unit in ours.items()}


def test_dropped_frames_and_the_backlog():
    with traced(crewbus.MemoryStore()) as (bus, exported):
        with bus.subscribe("r", bound=4, slow="drop"), bus.run(id="r") as run:
            for _ in range(9):
                bus.chunk("x")
        found = exported.metrics()
    assert [point.value for point in found["crewbus.stream.dropped_frames"]] == [run.dropped_frames]
    for name in ("events", "size", "age"):
        assert [point.value for point in found[f"crewbus.store.backlog.{name}"]] == [0]


def test_queues():
    workers = pytest.importorskip("crewbus_workers")
    plugin = pytest.importorskip("crewbus_workers.plugin")
    with traced(crewbus.MemoryStore()) as (bus, exported):
        bus.plugins.register(plugin, "workers")

        @workers.workflow(name="otel-queued")
        def queued():
            return None

        workers.enqueue(bus, queued, id="q1")
        found = points(exported, "crewbus.queue.length", "value")
    assert ({"crewbus.queue.name": "default", "crewbus.queue.state": "waiting"}, 1) in found


def test_a_queued_run_is_in_the_trace_of_who_queued_it():
    workers = pytest.importorskip("crewbus_workers")
    plugin = pytest.importorskip("crewbus_workers.plugin")
    with traced(crewbus.MemoryStore()) as (bus, exported):
        bus.plugins.register(plugin, "workers")

        @workers.workflow(name="otel-caused")
        def caused():
            return 1

        with exported.tracers.get_tracer("app").start_as_current_span("request"):
            run_id = workers.enqueue(bus, caused, tags=trace_tags())
        with workers.worker(bus):
            assert bus.result(run_id, timeout=60) == 1
    assert exported.tree()["invoke_agent otel-caused"] == "request"
    assert exported.span("invoke_agent otel-caused").links == ()
