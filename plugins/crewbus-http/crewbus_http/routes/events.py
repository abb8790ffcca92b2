"""The events of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crewbus import InputError
from crewbus_http.endpoints import Endpoint, described, parameter
from crewbus_http.events import JSON, LINES, SSE, EventStream, negotiated, polled
from crewbus_http.fields import Query
from crewbus_http.problems import Problem
from crewbus_http.routes.runs import RUN

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crewbus_http.service import RunService

__all__ = ["ENDPOINTS", "cursor_of"]

WAIT: Final = 25.0
"""How many seconds a poll waits by default: less than proxies do."""


def cursor_of(request: Request) -> str:
    """The cursor that a client has: EventSource sends the last one in a header, and ``?after=`` names the first."""
    return request.headers.get("last-event-id") or request.query_params.get("after") or "start"


async def follow(service: RunService, request: Request) -> Response:
    """Answer with the events, as the client accepts them."""
    found = await service.access.find(request, "read")
    media_type = negotiated(request)
    seconds = Query(request).number("wait", WAIT, 60.0)
    try:
        place = await service.follow(found.id, cursor_of(request))
    except InputError:
        raise Problem("conflict", "this is no cursor of this run: follow it from 'start'", parameter="after") from None
    if media_type == JSON:
        return await polled(place, seconds)
    return EventStream(place, media_type, service.heartbeat)


ENDPOINTS: Final = (
    Endpoint("GET", "/runs/{run}/events", follow, described(
        "events",
        "The events of a run after a cursor, also those to come: as a stream, or for a client that polls",
        {200: ("The events", {
            SSE: {"schema": {"type": "string"}},
            LINES: {"schema": {"type": "string"}},
            JSON: {"schema": {"$ref": "#/components/schemas/Events"}},
        })},
        parameters=[
            RUN,
            parameter("after", "query", {"type": "string", "default": "start"}, "The cursor of the last event seen"),
            parameter("Last-Event-ID", "header", {"type": "string"}, "The same, as EventSource sends it"),
            parameter(
                "wait", "query", {"type": "number", "minimum": 0, "maximum": 60}, "Seconds that a poll waits at most"
            ),
        ],
        problems=(406, 409, 422),
    )),
)  # fmt: skip
