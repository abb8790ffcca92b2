"""Metrics for Prometheus, under the names that crewbus-otel's have there. Needs ``crewbus-metrics[prometheus]``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

import crewbus
from crewbus import CallCancelled, CallFailed, CallFinished, CallStarted, PluginError, RunFailed, RunStarted
from crewbus_metrics.queues import open_queues
from crewbus_metrics.turns import Turns

if TYPE_CHECKING:
    from crewbus import Bus, Envelope, Run

__all__ = ["Prometheus"]

OPERATIONS: Final = {
    "model": "chat",
    "tool": "execute_tool",
    "agent": "invoke_agent",
    "retrieval": "retrieval",
    "embedding": "embeddings",
}
DURATIONS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS: Final = tuple(4**power for power in range(14))
_TOKEN_TYPES: Final = {"input_tokens": "input", "output_tokens": "output"}
Opened = tuple[float, str, str, str]
"""When a call began, its operation, its model, and its provider."""
MOST_OPEN: Final = 1000
"""How many open calls are timed in one run, or outside any; the oldest are dropped first."""
_FENCED: Final = "crewbus.exceptions.FencedError"
_RUNS: Final = {
    crewbus.RunFinished: "finished",
    RunFailed: "failed",
    crewbus.RunCancelled: "cancelled",
    crewbus.RunSuspended: "suspended",
}
"""The events that end a run."""


class Prometheus:
    """Counts and times the runs and calls of one bus, for Prometheus: give it to `crewbus.Bus` as a plugin.

    ``registry``: where the metrics are registered until the bus is closed; by default prometheus_client's own, which
    its ``start_http_server`` and ``make_asgi_app`` show. `PluginError` for a second bus with the same registry.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._collectors: list[Any] = []
        self._open: dict[str | None, dict[str | None, Opened]] = {None: {}}
        """The open calls by run, and by the id of their start."""
        self._runs: dict[str | None, float] = {}
        self._turns = Turns()

    @crewbus.hookimpl
    def crewbus_configure(self, bus: Bus) -> None:
        """Register the metrics."""
        if self._collectors:
            raise PluginError("a Prometheus instance serves one bus: create another, with a registry of its own")
        labels = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name")
        try:
            self._durations = self._add(
                Histogram(
                    "gen_ai_client_operation_duration_seconds",
                    "The durations of runs, and of calls with a kind.",
                    (*labels, "error_type"),
                    buckets=DURATIONS,
                    registry=self._registry,
                )
            )
            self._tokens = self._add(
                Histogram(
                    "gen_ai_client_token_usage",
                    "Tokens by call.",
                    (*labels, "gen_ai_token_type"),
                    buckets=TOKENS,
                    registry=self._registry,
                )
            )
            self._commits = self._add(
                Histogram(
                    "crewbus_store_commit_duration_seconds",
                    "From the end of a recorded run until it is on disk.",
                    buckets=DURATIONS,
                    registry=self._registry,
                )
            )
            self._dropped = self._add(
                Counter("crewbus_stream_dropped_frames", "Frames dropped for slow consumers.", registry=self._registry)
            )
            self._lost = self._add(
                Counter("crewbus_store_lost_leases", "Runs that another took over.", registry=self._registry)
            )
            gauges = Gauges(bus)
            self._registry.register(gauges)
            self._add(gauges)
        except ValueError as error:
            self._unregister()
            raise PluginError(f"the metrics of another bus are in this registry: give each its own ({error})") from None

    def _add(self, collector: Any) -> Any:
        self._collectors.append(collector)
        return collector

    def _unregister(self) -> None:
        for collector in self._collectors:
            self._registry.unregister(collector)
        self._collectors.clear()

    @crewbus.hookimpl
    def crewbus_emit(self, envelope: Envelope) -> None:
        """Time a run or call that ends."""
        if envelope.event.__class__ is not crewbus.Chunk and (not envelope.replayed or _is_loss(envelope.event)):
            self._turns.take(partial(self._update, envelope))

    def _update(self, envelope: Envelope) -> None:
        event = envelope.event
        kind = event.__class__
        if kind is RunStarted:
            self._runs[envelope.run_id] = envelope.at
        elif kind in _RUNS:
            self._run_ended(envelope)
        elif kind is CallStarted:
            attributes = event.attributes
            model = attributes.get("model", attributes.get("gen_ai.request.model", event.name))
            provider = attributes.get("provider", attributes.get("gen_ai.provider.name", ""))
            if event.kind in OPERATIONS:
                named = str(model) if event.kind in ("model", "embedding") else ""
                calls = self._open.setdefault(envelope.run_id, {})
                calls[envelope.id] = envelope.at, OPERATIONS[event.kind], named, str(provider)
                if len(calls) > MOST_OPEN:
                    calls.pop(next(iter(calls)))
        elif isinstance(event, CallFinished | CallFailed | CallCancelled):
            self._call_ended(envelope)

    def _run_ended(self, envelope: Envelope) -> None:
        began = self._runs.pop(envelope.run_id, None)
        error = envelope.event.error if isinstance(envelope.event, RunFailed) else ""
        if error == _FENCED:
            self._lost.inc()
        if began is not None:
            labels = ("invoke_agent", "", "", error.removeprefix("builtins."))
            self._durations.labels(*labels).observe(envelope.at - began)

    def _call_ended(self, envelope: Envelope) -> None:
        opened = self._open.get(envelope.run_id, {}).pop(envelope.parent, None)
        if opened is None:
            return
        event, (began, *about) = envelope.event, opened
        error = event.error.removeprefix("builtins.") if isinstance(event, CallFailed) else ""
        self._durations.labels(*about, error).observe(envelope.at - began)
        usage = event.usage if isinstance(event, CallFinished) else None
        for key, which in _TOKEN_TYPES.items():
            if usage and key in usage:
                self._tokens.labels(*about, which).observe(usage[key])

    @crewbus.hookimpl
    def crewbus_run_finish(self, bus: Bus, run: Run) -> None:
        """Time the commit of a recorded root run, and count what its streams dropped."""
        self._turns.take(partial(self._run_finished, bus, run))

    def _run_finished(self, bus: Bus, run: Run) -> None:
        self._runs.pop(run.id, None)
        self._open.pop(run.id, None)
        if run.parent is not None:
            return
        if dropped := run.dropped_frames:
            self._dropped.inc(dropped)
        if run.recorded:
            began = time.perf_counter()
            bus.store.when_written(run.id, lambda _: self._commits.observe(time.perf_counter() - began))

    @crewbus.hookimpl
    def crewbus_close(self) -> None:
        """Take the metrics out of the registry."""
        self._unregister()
        self._open.clear()
        self._runs.clear()


class Gauges(Collector):  # type: ignore[misc, unused-ignore]
    """What is read when Prometheus asks: the live runs, the backlog of the store, the queues of crewbus-workers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = ref(bus)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges of the bus, while it is open."""
        bus = self._bus()
        return [] if bus is None or bus.closed else [*_gauges(bus)]


def _gauges(bus: Bus) -> Iterator[GaugeMetricFamily]:
    backlog = bus.backlog
    yield _gauge("crewbus_runs_active", "Live runs.", len(bus.runs))
    yield _gauge("crewbus_store_backlog_events", "Events that the store has not written yet.", backlog.events)
    yield _gauge("crewbus_store_backlog_size_bytes", "Their size.", backlog.bytes)
    yield _gauge("crewbus_store_backlog_age_seconds", "For how long the oldest has been waiting.", backlog.seconds)
    labels = ["crewbus_queue_name"]
    length = GaugeMetricFamily("crewbus_queue_length", "Runs in the queues.", labels=[*labels, "crewbus_queue_state"])
    age = GaugeMetricFamily("crewbus_queue_age_seconds", "The wait of the oldest waiting run.", labels=labels)
    for queue in open_queues(bus):
        for state in ("waiting", "later", "running", "stuck"):
            length.add_metric([queue.name, state], getattr(queue, state))
        age.add_metric([queue.name], queue.oldest or 0.0)
    yield from (length, age)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _is_loss(event: object) -> bool:
    """Whether it ends a run that another process has taken: that end is in no record, and so is marked as replayed."""
    return isinstance(event, RunFailed) and event.error == _FENCED
