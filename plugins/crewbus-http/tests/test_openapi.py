"""The OpenAPI document has every route, and what is served fits it."""

from __future__ import annotations

import pytest
from http_helpers import client, recording_bus, served
from starlette.routing import Route

from crewbus_http import app
from crewbus_http.app import DOCUMENTED
from crewbus_http.routes import ENDPOINTS
from crewbus_workers import enqueue, workflow

HIDDEN = ("/ui",)
"""Where the routes begin that are for people."""


@pytest.fixture
def bus(tmp_path):
    @workflow(name="newsroom")
    def newsroom(topic: str = "tides") -> str:
        return topic

    with recording_bus(tmp_path) as made:
        with made.run(id="r") as run:
            run.chunk("Tides")
        enqueue(made, newsroom, id="queued")
        yield made


def test_every_route_is_in_the_document(bus):
    with served(bus) as server, client(server.url) as http:
        paths = http.get("/openapi.json").json()["paths"]
    routes = [route for route in app(bus).routes if isinstance(route, Route) and not route.path.startswith(HIDDEN)]
    served_ = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in routes
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert {(path, method) for path, methods in paths.items() for method in methods} == served_
    assert len(served_) == len(DOCUMENTED) == len(ENDPOINTS) + 1


def test_each_operation_has_a_name_of_its_own():
    names = [one.operation["operationId"] for one in DOCUMENTED]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("seed", [20])
def test_schemathesis_finds_nothing(bus, seed):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    with served(bus, write=True, heartbeat=0.05) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(
                max_examples=12, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy())
            def check(case):
                if case.operation.path.endswith("/events") or case.operation.path.endswith("/result"):
                    case.query["wait"] = 0
                # Which arguments a workflow takes, and which steps a run has, is in no schema.
                unchecked = [positive_data_acceptance] if case.operation.path.endswith(("/runs", "/forks")) else []
                case.call_and_validate(excluded_checks=unchecked if case.method == "POST" else [], timeout=60)

            check()
