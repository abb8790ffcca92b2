"""What holds for every test: the package of this checkout where none is installed, no settings, no exporter."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# Last, so that what is installed comes first: where a process that a test spawns finds that test's module.
sys.path.append(str(Path(__file__).resolve().parents[3]))

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
for name in ("crewbus_otel", "crewbus_workers", "crewbus_sqlite", "crewbus_metrics"):
    if find_spec(name) is None:
        sys.path.insert(0, str(HERE.parents[1] / name.replace("_", "-")))


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.setenv("CREWBUS_RECORD", "off")
    for variable in (
        "CREWBUS_STORE",
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        "OTEL_TRACES_SAMPLER",
        "OTEL_SDK_DISABLED",
    ):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(autouse=True)
def silence(caplog):
    """OpenTelemetry logs where a context is left elsewhere, or a span ends twice: no test may cause that."""
    caplog.set_level(logging.WARNING, logger="opentelemetry")
    yield
    said = [record.getMessage() for record in caplog.get_records("call") if record.name.startswith("opentelemetry")]
    assert said == []
