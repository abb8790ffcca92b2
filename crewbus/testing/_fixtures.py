"""The former place of the pytest plugin, for checkouts that were installed in place before it moved."""

from crewbus.testing.fixtures import (
    bus,
    captured_events,
    no_leaks,
    pytest_configure,
    pytest_runtest_makereport,
    recorded_run,
)

__all__ = ["bus", "captured_events", "no_leaks", "pytest_configure", "pytest_runtest_makereport", "recorded_run"]
