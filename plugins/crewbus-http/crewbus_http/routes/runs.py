"""Runs: many, one, its tree, and its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from crewbus.stores import STATES
from crewbus_http.endpoints import TEXT, Endpoint, described, parameter
from crewbus_http.fields import Query
from crewbus_http.json_response import json_response
from crewbus_http.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crewbus import RunInfo
    from crewbus_http.service import RunService

__all__ = ["ENDPOINTS", "RUN", "filters"]

LIMIT: Final = 100
MOST: Final = 1000
SCANNED: Final = 16_000
"""Among how many runs those are looked for that a client may read."""
RUN: Final = parameter("run", "path", {"type": "string"}, "The id of a run")
TAG: Final = "^[^=\\u0000]+=[^\\u0000]*$"
SECONDS: Final = {"type": "number", "minimum": 0, "maximum": 1e12}
STATE_NAMES: Final = sorted(STATES)


def filters(query: Query) -> dict[str, Any]:
    """The filters of `RunService.list` that a query holds. Raises `Problem`."""
    states = query.texts("state")
    if not STATES.issuperset(states):
        raise Problem("invalid", f"a state is one of {', '.join(STATE_NAMES)}", parameter="state")
    tags = [text.partition("=") for text in query.texts("tag")]
    if not all(equals and name for name, equals, _ in tags):
        raise Problem("invalid", "a tag is NAME=VALUE", parameter="tag")
    since = query.number("since", 0.0, 1e12)
    return {
        "state": states,
        "name": query.text("name"),
        "tags": {name: value for name, _, value in tags},
        "since": since or None,
    }


async def listed(service: RunService, request: Request) -> Response:
    """Answer with the newest runs."""
    await service.access.require(request, "list")
    query = Query(request)
    limit = query.count("limit", LIMIT, MOST)
    found = await readable(service, request, limit, filters(query))
    return json_response({"runs": [service.info_as_json(run) for run in found]})


async def readable(service: RunService, request: Request, limit: int, wanted: dict[str, Any]) -> list[RunInfo]:
    """The newest of these runs that the client may read."""
    asked = limit
    while True:
        runs = await service.list(asked, **wanted)
        found = await service.access.readable(request, runs)
        if len(found) >= limit or len(runs) < asked or asked >= SCANNED:
            return found[:limit]
        asked = min(4 * asked, SCANNED)


async def one(service: RunService, request: Request) -> Response:
    """Answer with what is known of a run."""
    found = await service.access.find(request, "read")
    if not found.is_root:
        raise Problem("nested", root=found.root.id)
    return json_response(service.info_as_json(found.root))


async def tree(service: RunService, request: Request) -> Response:
    """Answer with what a run did."""
    found = await service.access.find(request, "read")
    return json_response(await service.tree(found.id))


async def result(service: RunService, request: Request) -> Response:
    """Answer with how a run has ended."""
    found = await service.access.find(request, "read")
    told = await service.result(found.id, Query(request).number("wait", 0.0, 60.0))
    return json_response(told, 202 if told["state"] == "unfinished" else 200)


def _schema(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


ENDPOINTS: Final = (
    Endpoint("GET", "/runs", listed, described(
        "runs",
        "The root runs, the newest first",
        {200: ("Those that the client may read", {"application/json": {"schema": {
            "type": "object", "required": ["runs"],
            "properties": {"runs": {"type": "array", "items": {"$ref": "#/components/schemas/Run"}}},
        }}})},
        parameters=[
            parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": MOST}, "How many"),
            parameter("state", "query", {"type": "array", "items": {"enum": STATE_NAMES}}, "In one of these states"),
            parameter("name", "query", TEXT, "Of this name"),
            parameter("tag", "query", {"type": "array", "items": {**TEXT, "pattern": TAG}}, "With tags, as NAME=VALUE"),
            parameter("since", "query", SECONDS, "Started since then, in seconds since 1970"),
        ],
        problems=(422,),
    )),
    Endpoint("GET", "/runs/{run}/tree", tree, described(
        "tree", "A run and what it did: its steps, calls, attempts and nested runs", {200: ("It", _schema("Tree"))},
        parameters=[RUN],
    )),
    Endpoint("GET", "/runs/{run}/result", result, described(
        "result",
        "How a run has ended, and with what result",
        {200: ("It has ended", _schema("Result")), 202: ("It has not ended yet", _schema("Result"))},
        parameters=[
            RUN,
            parameter("wait", "query", {"type": "number", "minimum": 0, "maximum": 60}, "Seconds to wait for its end"),
        ],
        problems=(422,),
    )),
    Endpoint("GET", "/runs/{run}", one, described(
        "run", "What is known of a root run", {200: ("It", _schema("Run"))}, parameters=[RUN], problems=(409,),
    )),
)  # fmt: skip
