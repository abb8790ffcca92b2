"""What tracing costs: a run of ten calls of 20 ms with 100 chunks each, with crewbus-otel and a batch processor.

The exporter drops the spans; OpenTelemetry's SDK makes and batches them as it does for any.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import attrs

from benchmarks._harness import Size, installed
from benchmarks._table import Row, main
from crewbus import Bus

CALLS: Final = 10
CHUNKS: Final = 100
SECONDS: Final = 0.02
"""How long a call takes, as of a model behind a network; it pauses ten times."""
PAUSES: Final = 10

Loop = Callable[[Bus], object]


@attrs.frozen
class Took:
    """Nanoseconds of a loop: of the clock, and of the process's processor time."""

    wall: float
    cpu: float

    def least(self, other: Took) -> Took:
        """The lesser of each."""
        return Took(min(self.wall, other.wall), min(self.cpu, other.cpu))


def agent(seconds: float, bus: Bus) -> None:
    """A run of ten calls, which take so long."""
    with bus.run("agent"):
        for _ in range(CALLS):
            with bus.call("gpt") as call:
                for number in range(CHUNKS):
                    if seconds and number % (CHUNKS // PAUSES) == 0:
                        time.sleep(seconds / PAUSES)
                    bus.chunk("Hello")
                call.finish(usage={"input_tokens": 10, "output_tokens": CHUNKS})


def timed(loop: Loop, bus: Bus) -> Took:
    start, spent = time.perf_counter_ns(), time.process_time_ns()
    loop(bus)
    return Took(time.perf_counter_ns() - start, time.process_time_ns() - spent)


def least(loop: Loop, buses: dict[str, Bus], repeat: int) -> dict[str, Took]:
    """The least that each bus took, in turns."""
    took = {name: timed(loop, bus) for name, bus in buses.items()}
    for _ in range(repeat - 1):
        took = {name: took[name].least(timed(loop, bus)) for name, bus in buses.items()}
    return took


def rows(size: Size) -> Iterator[Row]:
    """Traced, and with the plugin but no provider, against the bus without it."""
    if not (installed("crewbus_otel") and installed("opentelemetry.sdk")):
        return
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    os.environ.pop("OTEL_SDK_DISABLED", None)  # other peers are measured without it
    from crewbus_otel import OpenTelemetry

    class Dropping(SpanExporter):  # type: ignore[misc, unused-ignore]
        def export(self, _: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Dropping()))
    buses = {
        "without": Bus(entry_points=False),
        "off": Bus([OpenTelemetry()], entry_points=False),
        "traced": Bus([OpenTelemetry(provider)], entry_points=False),
    }
    waiting = least(partial(agent, SECONDS), buses, size.repeat(15))
    busy = least(partial(agent, 0.0), buses, size.repeat(60))
    for bus in buses.values():
        bus.close()
    provider.shutdown()
    wall = {name: took.wall / 1000 for name, took in waiting.items()}
    yield Row(
        "a run of 10 calls of 20 ms with 100 chunks each, traced / untraced",
        wall["traced"],
        wall["without"],
        1.15,
        "µs",
    )
    yield Row("  with the plugin, and no provider / without", wall["off"], wall["without"], 1.02, "µs")
    cpu = {name: took.wall / 1000 for name, took in busy.items()}
    yield Row("  the same calls, which wait for nothing, traced / untraced", cpu["traced"], cpu["without"], unit="µs")
    yield Row("    with the plugin, and no provider / without", cpu["off"], cpu["without"], 1.02, unit="µs")


if __name__ == "__main__":
    main(rows)
