"""The application: the routes, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware

from crewbus_http import openapi, page, protocols
from crewbus_http.limits import MAX_BODY, Limited
from crewbus_http.problems import handlers
from crewbus_http.routes import ENDPOINTS
from crewbus_http.service import HEARTBEAT, RunService

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from crewbus import Bus
    from crewbus_http.authorize import Authorize

__all__ = ["app"]

DOCUMENTED: Final = (openapi.endpoint(ENDPOINTS), *ENDPOINTS)


def app(
    bus: Bus,
    authorize: Authorize | None = None,
    *,
    write: bool = False,
    reveal: bool | None = None,
    heartbeat: float = HEARTBEAT,
    max_body: int = MAX_BODY,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """An ASGI application over the runs that ``bus`` records, to serve or to mount in another. It leaves the bus open.

    ``authorize(request, action, run)``, sync or async, decides each access: ``action`` is "list", "read", "start",
    "cancel", "send" or "fork", and ``run`` the `RunInfo` of the root run, or None for "list" and a run to be started.
    Without it only requests to a loopback address are answered. ``write``: whether runs may be started, cancelled,
    forked and sent messages. ``reveal``: whether answers hold what failures said and who executes a run; None: only
    without ``authorize``. ``heartbeat``: seconds after which a silent stream says that it is there. ``max_body``: bytes
    of a request. ``routes``: more routes, which come first.

    Its `RunService` is ``app.state.runs``. Before the server waits for its connections to close, call
    ``app.state.runs.drain()``: followers are let go, and come back with their cursors.
    """
    service = RunService(bus, authorize, write=write, reveal=reveal, heartbeat=heartbeat)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await service.close()

    made = Starlette(
        routes=[
            *routes,
            *protocols.routes(service),
            *page.routes(service),
            *(endpoint.route(service) for endpoint in DOCUMENTED),
        ],
        middleware=[Middleware(Limited, access=service.access, max_body=max_body)],
        exception_handlers=handlers(),
        lifespan=lifespan,
    )
    made.state.runs = service
    return made
