"""A bus whose spans and metrics stay in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import crewbus
from crewbus_otel import OpenTelemetry

TIMEOUT = 60.0
"""Seconds after which a wait in a test has failed; nothing should ever come near it."""


class Exported:
    """Providers of OpenTelemetry's SDK, and what they have exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    @property
    def plugin(self) -> OpenTelemetry:
        return OpenTelemetry(self.tracers, self.meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All that ended, each once."""
        spans = self._exporter.get_finished_spans()
        assert set(Counter(span.context.span_id for span in spans).values()) <= {1}
        return spans

    def span(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def tree(self) -> dict[str, str | None]:
        """The name of each span, and of its parent."""
        by_id = {span.context.span_id: span.name for span in self.spans}
        return {span.name: by_id.get(span.parent.span_id) if span.parent else None for span in self.spans}

    def metrics(self) -> dict[str, list]:
        """The data points by the name of their metric."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@contextmanager
def traced(store: crewbus.Store | None = None, **options: object) -> Iterator[tuple[crewbus.Bus, Exported]]:
    """A bus with the plugin, that records to ``store`` if there is one; and what is exported."""
    exported = Exported()
    with crewbus.Bus([("otel", exported.plugin)], entry_points=False, strict=True, **options) as bus:
        if store is not None:
            bus.enable_recording(store)
        yield bus, exported
