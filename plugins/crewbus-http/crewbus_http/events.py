"""The events of a run as server-sent events, as lines of JSON, and for clients that poll."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from crewbus import CrewbusError
from crewbus_http.json_response import json_response
from crewbus_http.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from crewbus_http.feeds import Place
    from crewbus_http.frames import Frame

__all__ = ["EventStream", "negotiated", "polled"]

SSE: Final = "text/event-stream"
LINES: Final = "application/x-ndjson"
JSON: Final = "application/json"
RETRY: Final = 1000
"""Milliseconds after which a client comes back when the server has ended a stream of its own accord."""
_ACCEPTED: Final = {
    SSE: SSE,
    "text/*": SSE,
    "*/*": SSE,
    LINES: LINES,
    "application/jsonl": LINES,
    "application/json-seq": LINES,
    JSON: JSON,
    "application/*": JSON,
}
"""By the range that a client accepts: what it gets."""


def negotiated(request: Request) -> str:
    """The media type for a client: by its Accept header, of those with the same quality the first. Raises `Problem`."""
    ranges = []
    for place, part in enumerate(request.headers.get("accept", "*/*").split(",")):
        name, *parameters = (one.strip() for one in part.lower().split(";"))
        ranges.append((-_quality(parameters), place, name))
    for quality, _, name in sorted(ranges):
        if quality < 0 and name in _ACCEPTED:
            return _ACCEPTED[name]
    raise Problem("not-acceptable", available=[SSE, LINES, JSON])


def _quality(parameters: list[str]) -> float:
    for one in parameters:
        name, _, value = one.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


class EventStream(Response):
    """Sends the frames of a place until the run ends, the client goes, or the server stops."""

    def __init__(self, place: Place, media_type: str, heartbeat: float) -> None:
        super().__init__(media_type=media_type, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._place = place
        self._heartbeat = heartbeat
        self._is_sse = media_type == SSE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI calls it
        """Send them."""
        watching = asyncio.get_running_loop().create_task(self._watch(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with suppress(OSError):  # the client has gone
                await self._send(send)
        finally:
            self._place.close()
            watching.cancel()

    async def _send(self, send: Send) -> None:
        place = self._place
        if self._is_sse:  # at once, so that the client knows that it is connected
            await send({"type": "http.response.body", "body": b"retry: %d\n\n" % RETRY, "more_body": True})
        while place.goes_on():
            try:
                frames = await place.next(self._heartbeat)
            except CrewbusError:  # the client comes back, and is told what is wrong
                break
            if frames or place.goes_on():
                await send({"type": "http.response.body", "body": self._body(frames), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _body(self, frames: list[Frame]) -> bytes:
        """The frames; a comment or an empty line if there are none."""
        if not frames:
            return b":\n\n" if self._is_sse else b"\n"
        return b"".join([frame.message for frame in frames] if self._is_sse else [frame.line for frame in frames])

    async def _watch(self, receive: Receive) -> None:
        """Leave when the client has gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._place.close()


async def polled(place: Place, seconds: float) -> Response:
    """What came after the cursor of a place, once something has come; nothing, after ``seconds``."""
    try:
        frames = await place.next(seconds)
    finally:
        place.close()
    lines = b",".join(frame.line.rstrip() for frame in frames)
    tail = json_response({"cursor": place.cursor, "ended": place.has_ended}).body
    body = b'{"events":[%b],%b' % (lines, bytes(tail)[1:])
    return Response(body, media_type=JSON, headers={"cache-control": "no-store"})
