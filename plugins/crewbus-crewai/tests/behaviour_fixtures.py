"""The fixture of crewAI's own behaviour: ``pytest_plugins = ["behaviour_fixtures"]`` in a module of its tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Context
from pathlib import Path

import behaviour
import pytest
from helpers import TIMEOUT, quiet_bus
from served import model_server

import crewbus

ALONE, WITH, RECORDED = behaviour.MODES


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have each test run in a context of its own: crewAI leaves much in that in which it restores a checkpoint."""
    if "either_way" in getattr(item, "fixturenames", ()):
        run_here = item.runtest
        item.runtest = lambda: Context().run(run_here)  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A small file of certificates, since each model of each restored agent reads it twice."""
    import certifi

    end = "-----END CERTIFICATE-----\n"
    file = tmp_path_factory.mktemp("certificates") / "one.pem"
    file.write_text(Path(certifi.where()).read_text("utf-8").partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(scope="session")
def answering(tmp_path_factory: pytest.TempPathFactory, one_certificate: None) -> Iterator[None]:
    """A local model server answers."""
    options = ["--chunks", str(behaviour.CHUNKS), "--delay", "0", "--data", str(behaviour.RECORDED_ANSWERS)]
    with model_server(tmp_path_factory.mktemp("model"), *options) as url:
        behaviour.server.url = url
        yield


@pytest.fixture(params=behaviour.MODES)
def either_way(request: pytest.FixtureRequest, answering: None) -> Iterator[crewbus.Bus | None]:
    """The bus that crewAI reports to, or None if the plugin is not installed."""
    theirs = behaviour.crewai().crewai_event_bus
    if request.param == ALONE:
        yield None
        assert theirs.flush(TIMEOUT)
        return
    import crewbus_crewai

    with quiet_bus() as bus:
        if request.param == RECORDED:
            bus.enable_recording(crewbus.MemoryStore())
        crewbus_crewai.install(bus)
        try:
            yield bus
        finally:
            assert theirs.flush(TIMEOUT)
            crewbus_crewai.uninstall()
