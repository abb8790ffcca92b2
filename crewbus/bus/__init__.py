"""The bus: the facade, and the parts that it is built of."""

from crewbus.bus.bus import Bus
from crewbus.bus.default import (
    achunk,
    aemit,
    call,
    chunk,
    current_bus,
    default_bus,
    drain,
    emit,
    existing_default_bus,
    made_with,
    run,
    separate_default_bus,
)
from crewbus.bus.process import live_buses

__all__ = [
    "Bus",
    "achunk",
    "aemit",
    "call",
    "chunk",
    "current_bus",
    "default_bus",
    "drain",
    "emit",
    "existing_default_bus",
    "live_buses",
    "made_with",
    "run",
    "separate_default_bus",
]
