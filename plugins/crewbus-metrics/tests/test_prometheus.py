"""What Prometheus reads: durations, tokens, live runs, the store, dropped frames."""

from __future__ import annotations

import gc

import pytest

import crewbus
from crewbus.stores import Backlog

prometheus_client = pytest.importorskip("prometheus_client")

from crewbus_metrics.prometheus import Prometheus  # noqa: E402 - it needs prometheus_client


class Behind(crewbus.MemoryStore):
    """A store that says that it is behind."""

    def backlog(self):
        return Backlog(7, 4096, 1.25)


@pytest.fixture
def registry():
    return prometheus_client.CollectorRegistry()


@pytest.fixture
def bus(registry):
    with crewbus.Bus([("prometheus", Prometheus(registry))], entry_points=False, strict=True) as bus:
        bus.enable_recording(crewbus.MemoryStore())
        yield bus


def values(registry, name) -> dict[tuple[str, ...], float]:
    """By the labels that are not empty."""
    return {
        tuple(value for _, value in sorted(sample.labels.items()) if value): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


def test_runs_and_calls(bus, registry):
    with bus.run("r"):
        with bus.call("gpt-5", kind="model", attributes={"provider": "openai"}) as call:
            call.finish(usage={"input_tokens": 9, "output_tokens": 2})
        with pytest.raises(ValueError, match="no"), bus.call("search", kind="tool"):
            raise ValueError("no")
        with bus.call("anything"):
            pass
        assert values(registry, "crewbus_runs_active") == {(): 1}
    assert values(registry, "gen_ai_client_operation_duration_seconds_count") == {
        ("chat", "openai", "gpt-5"): 1,
        ("ValueError", "execute_tool"): 1,
        ("invoke_agent",): 1,
    }
    assert values(registry, "gen_ai_client_token_usage_sum") == {
        ("chat", "openai", "gpt-5", "input"): 9,
        ("chat", "openai", "gpt-5", "output"): 2,
    }
    assert values(registry, "crewbus_runs_active") == {(): 0}


def test_the_store(bus, registry):
    with bus.run("r"):
        pass
    bus.flush()
    assert values(registry, "crewbus_store_commit_duration_seconds_count") == {(): 1}
    bus.recording.use_store(Behind())
    assert values(registry, "crewbus_store_backlog_events") == {(): 7}
    assert values(registry, "crewbus_store_backlog_size_bytes") == {(): 4096}
    assert values(registry, "crewbus_store_backlog_age_seconds") == {(): 1.25}


def test_dropped_frames(bus, registry):
    with bus.subscribe("r", bound=4, slow="drop") as stream:
        with bus.run(id="r") as run:
            for _ in range(9):
                bus.chunk("x")
        told = sum(frame.event.count for frame in stream if isinstance(frame.event, crewbus.Dropped))
    assert told == run.dropped_frames > 0
    assert values(registry, "crewbus_stream_dropped_frames_total") == {(): told}


def test_a_repeated_event_is_not_counted(bus, registry):
    with pytest.raises(crewbus.RunSuspendedError), bus.run("r", id="r1") as run:
        with bus.call("gpt-5", kind="model"):
            pass
        run.suspend("later")
        run.chunk("x")
    with bus.resume("r1"), bus.call("gpt-5", kind="model"):
        pass
    assert values(registry, "gen_ai_client_operation_duration_seconds_count")["chat", "gpt-5"] == 1


def test_a_closed_bus_leaves_the_registry(registry):
    for _ in range(2):
        with crewbus.Bus([Prometheus(registry)], entry_points=False, strict=True) as bus, bus.run("r"):
            pass
        assert not list(registry.collect())


def test_one_registry_serves_one_bus(bus, registry):
    with pytest.raises(crewbus.PluginError, match="give each its own"):
        crewbus.Bus([Prometheus(registry)], entry_points=False, strict=True)
    with bus.run("r"):
        pass
    assert values(registry, "gen_ai_client_operation_duration_seconds_count") == {("invoke_agent",): 1}


def test_a_finaliser_that_ends_a_call_while_another_is_counted(bus, registry, monkeypatch):
    """prometheus_client's locks are not re-entrant."""

    def agent():
        with bus.call("left", kind="model"):
            yield

    generator = agent()
    next(generator)
    holder = [generator]
    del generator
    observe, busy = prometheus_client.Histogram.observe, []

    def observing(self, *args):
        assert not busy
        busy.append(self)
        holder.clear()
        gc.collect()
        observe(self, *args)
        busy.clear()

    monkeypatch.setattr(prometheus_client.Histogram, "observe", observing)
    with bus.call("gpt-5", kind="model"):
        pass
    assert values(registry, "gen_ai_client_operation_duration_seconds_count") == {
        ("chat", "gpt-5"): 1,
        ("chat", "left"): 1,
    }


def test_a_lost_lease(bus, registry):
    """A run that another holder has taken."""
    with pytest.raises(crewbus.FencedError), bus.run(id="a") as run:
        bus.store.revoke("a")
        bus.store.acquire("a")
        run.chunk("refused")
    assert values(registry, "crewbus_store_lost_leases_total") == {(): 1}
