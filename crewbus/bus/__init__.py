"""The bus: the facade, and the parts that it is built of."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names
from crewbus.bus.bus import Bus
from crewbus.bus.process import live_buses
from crewbus.bus.recovery import RESUMABLE, Recovery, left_behind

if TYPE_CHECKING:
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

__all__ = [
    "RESUMABLE",
    "Bus",
    "Recovery",
    "achunk",
    "aemit",
    "call",
    "chunk",
    "current_bus",
    "default_bus",
    "drain",
    "emit",
    "existing_default_bus",
    "left_behind",
    "live_buses",
    "made_with",
    "run",
    "separate_default_bus",
]

# Loaded at first use: not every program has a default bus.
__getattr__ = lazy_names(
    __name__,
    {
        "default": (
            "achunk aemit call chunk current_bus default_bus drain emit existing_default_bus made_with run "
            "separate_default_bus"
        )
    },
)
