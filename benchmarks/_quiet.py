"""Peers without telemetry, tracing and looks for newer versions, and with a home of their own to write to."""

from __future__ import annotations

import atexit
import tempfile
from typing import Final

_home: Final = tempfile.TemporaryDirectory(prefix="benchmarks-")
atexit.register(_home.cleanup)

QUIET: Final = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "HOME": _home.name,
    "LANGSMITH_TRACING": "false",
    "OTEL_SDK_DISABLED": "true",
}
"""The environment that they are imported in."""
