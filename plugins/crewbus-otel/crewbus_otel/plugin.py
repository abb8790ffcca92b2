"""The plugin ``otel``: it observes once the application has set up OpenTelemetry, and costs nothing until then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider, NoOpMeter
from opentelemetry.trace import NoOpTracer, ProxyTracer, TracerProvider

import crewbus
from crewbus import PluginError
from crewbus_otel.conventions import captures_content, chosen
from crewbus_otel.metering import Meters
from crewbus_otel.observer import Observer

if TYPE_CHECKING:
    from crewbus import Bus

NAME = "crewbus-otel"
OBSERVER = "otel_observer"
"""The name of the plugin that does the work."""


class OpenTelemetry:
    """Exports the runs, calls and steps of one bus as spans, and figures of it as metrics.

    ``tracer_provider`` and ``meter_provider``: those of OpenTelemetry's API by default, as soon as the application has
    set one: until the first run that starts after that, nothing is observed. `PluginError` for a second bus.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._bus: Bus | None = None
        self._observes = False

    @crewbus.hookimpl
    def crewbus_configure(self, bus: Bus) -> None:
        """Observe the bus, if there is anything to export to."""
        if self._bus is not None:
            raise PluginError("an OpenTelemetry plugin serves one bus: create another instance for another bus")
        self._bus = bus
        self._observe(bus)

    @crewbus.hookimpl
    def crewbus_run_start(self, bus: Bus) -> None:
        """As `crewbus_configure`: the application may have set a provider since."""
        if not self._observes:
            self._observe(bus)

    @crewbus.hookimpl
    def crewbus_close(self, bus: Bus) -> None:
        """Stop observing, if the plugin alone is unregistered."""
        if self._observes and not bus.closed and bus.plugins.has_plugin(OBSERVER):
            bus.plugins.unregister(name=OBSERVER)

    def _observe(self, bus: Bus) -> None:
        conventions = chosen()
        tracer = (self._tracer_provider or trace.get_tracer_provider()).get_tracer(
            NAME, schema_url=conventions.schema_url
        )
        meter = (self._meter_provider or metrics.get_meter_provider()).get_meter(
            NAME, schema_url=conventions.schema_url
        )
        traces, measures = not isinstance(tracer, NoOpTracer | ProxyTracer), not _is_idle(meter)
        if not (traces or measures):
            return
        self._observes = True
        meters = Meters(meter if measures else NoOpMeter(NAME), conventions, bus)
        observer = Observer(tracer if traces else NoOpTracer(), meters, conventions, captures_content())
        bus.plugins.register(observer, OBSERVER)


def _is_idle(meter: Any) -> bool:
    """Whether it is that of the API alone, which measures nothing."""
    return isinstance(meter, NoOpMeter) or type(meter).__module__.startswith("opentelemetry.metrics.")
