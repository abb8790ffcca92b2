"""Limits: the sizes of headers, addresses and bodies, and where requests may come from. An ASGI middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.requests import HTTPConnection

from crewbus_http.problems import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from crewbus_http.authorize import Access

__all__ = ["Limited"]

MAX_BODY: Final = 1_048_576
MAX_HEADERS: Final = 32_768
MAX_ADDRESS: Final = 8_192
HEADERS: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Limited:
    """Refuses what is too large or comes from elsewhere, before anything else looks at it."""

    def __init__(self, app: ASGIApp, access: Access, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._access = access
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or have the application do so."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Problem as problem:
            await problem.response()(scope, receive, _with_headers(send))
            return
        await self._app(scope, self._counted(receive), _with_headers(send))

    def _check(self, scope: Scope) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            raise Problem("headers-too-large", max_bytes=MAX_HEADERS)
        if len(scope["path"]) + len(scope["query_string"]) > MAX_ADDRESS:
            raise Problem("uri-too-long", max_bytes=MAX_ADDRESS)
        connection = HTTPConnection(scope)
        self._access.check_origin(connection)
        length = connection.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._max_body:
            raise Problem("too-large", max_bytes=self._max_body)

    def _counted(self, receive: Receive) -> Receive:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body:
                raise Problem("too-large", max_bytes=self._max_body)
            return message

        return counted


def _with_headers(send: Send) -> Send:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            given = {name for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in given)]
        await send(message)

    return sending
