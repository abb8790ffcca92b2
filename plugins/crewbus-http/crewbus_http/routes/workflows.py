"""Workflows: which there are, and a run of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from crewbus_http.endpoints import TEXT, Endpoint, described, parameter
from crewbus_http.fields import is_text, read_body
from crewbus_http.json_response import json_response
from crewbus_http.problems import Problem
from crewbus_http.service import Started

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crewbus import RunInfo
    from crewbus_http.service import RunService

__all__ = ["ENDPOINTS"]

START: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "arguments": {"type": "object", "description": "By the names of the workflow's parameters."},
        "id": {**TEXT, "description": "The run's id: a repeated request starts one run."},
        "queue": TEXT,
        "delay": {"type": "number", "minimum": 0, "maximum": 1e9, "description": "Begin no sooner, in seconds."},
        "key": {**TEXT, "description": "What limits per key apply to, such as a tenant."},
        "tags": {"type": "object", "additionalProperties": TEXT},
        "version": {"type": "integer", "minimum": 1, "maximum": 2147483647},
    },
}


async def listed(service: RunService, request: Request) -> Response:
    """Answer with the workflows."""
    await service.access.require(request, "list")
    found = [{"name": one.name, "version": one.version} for one in service.workflows()]
    return json_response({"workflows": found})


async def start(service: RunService, request: Request) -> Response:
    """Start a run."""
    await service.access.require(request, "start")
    workflow = service.workflow(request.path_params["workflow"])
    if workflow is None:
        raise Problem("not-found", "no workflow of this name is registered here")
    body = await read_body(request, START["properties"])
    run_id = body.text("id") or request.headers.get("idempotency-key")
    if run_id is not None and not is_text(run_id):
        raise Problem("invalid", "an id is a text", parameter="Idempotency-Key")
    options = Started(
        id=run_id,
        queue=body.text("queue") or "default",
        delay=body.number("delay", 0.0),
        key=body.text("key"),
        tags=body.texts("tags"),
        version=body.count("version"),
    )
    existing = await _existing(service, run_id)
    if existing is not None:
        await service.access.require(request, "start", existing)
    started = await service.start(workflow, body.mapping("arguments"), options)
    location = str(request.url_for("run", run=started).path)
    return json_response({"run": started}, 202, headers={"location": location})


async def _existing(service: RunService, run_id: str | None) -> RunInfo | None:
    """The run that has this id already."""
    if run_id is None or (await service.root_of(run_id)) is None:
        return None
    return (await service.find(run_id)).root


ENDPOINTS: Final = (
    Endpoint(
        "GET",
        "/workflows",
        listed,
        described("workflows", "The workflows that can be started", {200: ("Them", {"application/json": {"schema": {
            "type": "object", "required": ["workflows"], "properties": {"workflows": {"type": "array", "items": {
                "type": "object", "required": ["name", "version"],
                "properties": {"name": {"type": "string"}, "version": {"type": "integer"}},
            }}},
        }}})}),
    ),
    Endpoint(
        "POST",
        "/workflows/{workflow}/runs",
        start,
        described(
            "start",
            "Start a run of a workflow. With an id, a repeated request starts one run",
            {202: ("It is queued", {"application/json": {"schema": {"$ref": "#/components/schemas/RunId"}}})},
            parameters=[
                parameter("workflow", "path", {"type": "string"}, "Its name; or name@version"),
                parameter("Idempotency-Key", "header", TEXT, "The id of the run, if the body has none"),
            ],
            body=START,
            problems=(409, 413, 415, 422),
        ),
    ),
)  # fmt: skip
