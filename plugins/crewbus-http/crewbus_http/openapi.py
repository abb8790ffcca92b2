"""The OpenAPI document, put together from the endpoints."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from crewbus.stores import STATES
from crewbus_http.endpoints import Endpoint, described
from crewbus_http.json_response import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crewbus_http.service import RunService

__all__ = ["document", "endpoint"]

OPTIONAL_TEXT: Final = {"type": ["string", "null"]}
OPTIONAL_NUMBER: Final = {"type": ["number", "null"]}
RUN_FIELDS: Final[dict[str, Any]] = {
    "id": {"type": "string"},
    "name": OPTIONAL_TEXT,
    "tags": {"type": "object", "additionalProperties": {"type": "string"}},
    "state": {"type": "string"},
    "started": {"type": "number"},
    "ended": OPTIONAL_NUMBER,
    "events": {"type": "integer"},
    "holder": OPTIONAL_TEXT,
    "parent": OPTIONAL_TEXT,
    "parent_at": {"type": ["integer", "null"]},
    "error": OPTIONAL_TEXT,
    "reason": OPTIONAL_TEXT,
    "until": OPTIONAL_NUMBER,
}
SCHEMAS: Final[dict[str, Any]] = {
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
    },
    "RunId": {"type": "object", "required": ["run"], "properties": {"run": {"type": "string"}}},
    "Run": {
        "type": "object",
        "required": list(RUN_FIELDS),
        "properties": {**RUN_FIELDS, "state": {"enum": sorted(STATES)}},
    },
    "Tree": {
        "type": "object",
        "required": [*RUN_FIELDS, "tree"],
        "properties": {
            **RUN_FIELDS,
            "tree": {"type": "array", "items": {"type": "object", "required": ["kind", "name", "seq", "state"]}},
        },
    },
    "Result": {
        "type": "object",
        "required": ["run", "state", "result", "type", "error"],
        "properties": {
            "run": {"type": "string"},
            "state": {"enum": ["unfinished", "finished", "failed", "cancelled"]},
            "result": {"description": "What the run returned, as JSON."},
            "type": OPTIONAL_TEXT,
            "error": {"type": ["object", "null"]},
        },
    },
    "Event": {
        "type": "object",
        "required": ["cursor", "run_id", "seq", "parent", "at", "source", "attempt", "name", "version", "event"],
        "properties": {
            "cursor": {"type": "string", "description": "What to pass as ?after= to continue behind this event."},
            "run_id": {"type": "string"},
            "seq": {"type": "integer"},
            "parent": OPTIONAL_TEXT,
            "at": {"type": "number"},
            "source": OPTIONAL_TEXT,
            "attempt": {"type": "integer"},
            "name": {"type": "string"},
            "version": {"type": "integer"},
            "event": {"type": "object"},
        },
    },
    "Events": {
        "type": "object",
        "required": ["events", "cursor", "ended"],
        "properties": {
            "events": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}},
            "cursor": {"type": "string"},
            "ended": {"type": "boolean"},
        },
    },
}


def document(endpoints: Iterable[Endpoint], root_path: str = "") -> dict[str, Any]:
    """The document of these endpoints, and of `endpoint` itself."""
    paths: dict[str, Any] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = dict(one.operation)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "crewbus", "version": _version()},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }
    return made | ({"servers": [{"url": root_path}]} if root_path else {})


def _version() -> str:
    try:
        return version("crewbus-http")
    except PackageNotFoundError:
        return "0"


def endpoint(endpoints: Iterable[Endpoint]) -> Endpoint:
    """What serves the document of these endpoints."""

    async def serve(service: RunService, request: Request) -> Response:  # noqa: ARG001 - as all handlers
        return json_response(document([*endpoints, made], request.scope.get("root_path", "")))

    operation = described(
        "openapi", "This document", {200: ("It", {"application/json": {"schema": {"type": "object"}}})}
    )
    made = Endpoint("GET", "/openapi.json", serve, operation)
    return made
