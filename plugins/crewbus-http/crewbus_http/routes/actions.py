"""What changes a run: cancelling it, sending it a message, forking it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from crewbus_http.endpoints import TEXT, Endpoint, described, parameter
from crewbus_http.fields import is_text, read_body
from crewbus_http.json_response import json_response
from crewbus_http.problems import Problem
from crewbus_http.routes.runs import RUN

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crewbus_http.authorize import Action
    from crewbus_http.service import RunService

__all__ = ["ENDPOINTS"]

CANCEL: Final[dict[str, Any]] = {"reason": {**TEXT, "description": "Why, for the record."}}
MESSAGE: Final[dict[str, Any]] = {
    "channel": {**TEXT, "description": "As in receive(CHANNEL)."},
    "payload": {"description": "What the run receives: any JSON value."},
    "key": {**TEXT, "description": "Sending the same channel and key again changes nothing."},
}
FORK: Final[dict[str, Any]] = {
    "at": {**TEXT, "description": "The checkpoint to fork at; by default the end, or the last step that is edited."},
    "edits": {"type": "object", "description": "Other results of finished steps, by NAME or NAME[KEY]."},
}


async def _root(service: RunService, request: Request, action: Action) -> str:
    """The id of the root run that is named. Raises `Problem`."""
    found = await service.access.find(request, action)
    if not found.is_root:
        raise Problem("nested", root=found.root.id)
    return found.id


async def cancel(service: RunService, request: Request) -> Response:
    """Cancel a run."""
    run_id = await _root(service, request, "cancel")
    body = await read_body(request, CANCEL)
    was = await service.cancel(run_id, body.text("reason") or "cancelled")
    return json_response({"run": run_id, "was": was}, 202)


async def send(service: RunService, request: Request) -> Response:
    """Send a message to a run."""
    run_id = await _root(service, request, "send")
    body = await read_body(request, MESSAGE)
    channel = body.text("channel", required=True)
    key = body.text("key") or request.headers.get("idempotency-key")
    if key is not None and not is_text(key):
        raise Problem("invalid", "a key is a text", parameter="Idempotency-Key")
    number = await service.send(run_id, channel or "", body.value("payload"), key)
    return json_response({"run": run_id, "message": number}, 202)


async def fork(service: RunService, request: Request) -> Response:
    """Fork a run."""
    run_id = await _root(service, request, "fork")
    body = await read_body(request, FORK)
    fork_id = await service.fork(run_id, body.text("at"), body.mapping("edits"))
    location = str(request.url_for("run", run=fork_id).path)
    return json_response({"run": fork_id}, 201, headers={"location": location})


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    made = {"type": "object", "additionalProperties": False, "properties": properties}
    return made | ({"required": list(required)} if required else {})


def _answer(**properties: str) -> dict[str, Any]:
    schema = {"type": "object", "required": list(properties)} | {
        "properties": {name: {"type": kind} for name, kind in properties.items()}
    }
    return {"application/json": {"schema": schema}}


ENDPOINTS: Final = (
    Endpoint("POST", "/runs/{run}/cancel", cancel, described(
        "cancel",
        "Cancel a run, whichever process executes it. One that has ended stays as it is",
        {202: ("The state in which it was", _answer(run="string", was="string"))},
        parameters=[RUN],
        body=_object(CANCEL),
        problems=(409, 413, 415, 422),
    )),
    Endpoint("POST", "/runs/{run}/messages", send, described(
        "send",
        "Send a message to a run, which waits for it or will",
        {202: ("It is on disk", _answer(run="string", message="integer"))},
        parameters=[
            RUN,
            parameter("Idempotency-Key", "header", TEXT, "The message's key, if the body has none"),
        ],
        body=_object(MESSAGE, "channel"),
        problems=(409, 413, 415, 422),
    )),
    Endpoint("POST", "/runs/{run}/forks", fork, described(
        "fork",
        "Fork a run, with other results of its steps. Workers continue the fork of a run that was queued",
        {201: ("The fork", {"application/json": {"schema": {"$ref": "#/components/schemas/RunId"}}})},
        parameters=[RUN],
        body=_object(FORK),
        problems=(409, 413, 415, 422),
    )),
)  # fmt: skip
