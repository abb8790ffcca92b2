"""crewbus-otel: OpenTelemetry spans and metrics of what happens on a crewbus. The plugin is `OpenTelemetry`."""

from crewbus_otel.identity import span_id_of, trace_id_of, trace_tags
from crewbus_otel.plugin import OpenTelemetry

__all__ = ["OpenTelemetry", "span_id_of", "trace_id_of", "trace_tags"]
