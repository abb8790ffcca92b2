"""crewbus-metrics: what happens on a crewbus, in figures. The plugin is `Metrics`."""

from crewbus_metrics._metrics import Metrics
from crewbus_metrics._snapshot import Events, Snapshot, Timing

__all__ = ["Events", "Metrics", "Snapshot", "Timing"]
