"""crewbus-metrics: event counts and durations of a crewbus. The plugin is `Metrics`."""

from crewbus_metrics.checks import Health, QueueHealth, health
from crewbus_metrics.metrics import Metrics
from crewbus_metrics.snapshot import Events, Snapshot, Timing

__all__ = ["Events", "Health", "Metrics", "QueueHealth", "Snapshot", "Timing", "health"]
