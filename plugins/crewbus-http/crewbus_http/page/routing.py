"""The routes of the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

import crewbus
from crewbus_http.page.actions import Actions
from crewbus_http.page.live import Live
from crewbus_http.page.rendering import HEADERS, Renderer, wants_json
from crewbus_http.page.views import Views
from crewbus_http.problems import Problem, problem_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crewbus_http.service import RunService

__all__ = ["routes"]

Endpoint: TypeAlias = "Callable[[Request], Awaitable[Response]]"
_STATIC: Final = Path(__file__).parent / "static"
_TOLD: Final = (crewbus.InputError, crewbus.StepError, crewbus.RunError)
"""Errors whose text says what to do: whoever may see this page may know it."""


def routes(service: RunService) -> list[BaseRoute]:
    """The routes of the page; none if this server does not reveal what records hold: the page shows it all."""
    if not service.reveal:
        return []
    renderer = Renderer(write=service.write)
    views, actions = Views(service, renderer), Actions(service)
    live = Live(views)
    pages: dict[str, Endpoint] = {
        "/runs": views.runs,
        "/runs/{run:path}": views.run,
        "/events/{run:path}": views.events,
        "/rows/{run:path}/{seq:int}": views.row,
        "/compare": views.compare,
        "/fleet": views.fleet,
        "/store": views.store,
    }
    streams: dict[str, Endpoint] = {
        "/live/runs": live.runs,
        "/live/runs/{run:path}": live.run,
        "/live/fleet": live.fleet,
        "/text/{run:path}/{seq:int}": views.text,
    }
    forms: dict[str, Endpoint] = {
        "/fork/{run:path}": actions.fork,
        "/cancel/{run:path}": actions.cancel,
        "/requeue/{run:path}": actions.requeue,
        "/send/{run:path}": actions.send,
        "/prune": actions.prune,
    }
    answered = _Answered(renderer)
    return [
        Route("/ui", answered.by(views.home)),
        Mount("/ui/static", StaticFiles(directory=_STATIC)),
        *(Route(f"/ui{path}.json", answered.by(view)) for path, view in pages.items()),
        *(Route(f"/ui{path}", answered.by(view)) for path, view in (pages | streams).items()),
        *(Route(f"/ui{path}", answered.by(view), methods=["POST"]) for path, view in forms.items()),
    ]


class _Answered:
    """Answers what a view raises, as a page to a person and as problem details to a program."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def by(self, view: Endpoint) -> Endpoint:
        """The view, whose errors are answered."""

        async def endpoint(request: Request) -> Response:
            try:
                return await view(request)
            except (Problem, crewbus.CrewbusError) as error:
                return self._error(request, error)

        return endpoint

    def _error(self, request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        detail = str(error) if isinstance(error, _TOLD) else problem.detail
        if wants_json(request):
            return Problem(problem.kind, detail).response(HEADERS)
        view = {"title": problem.title, "detail": detail, "here": ""}
        response = self._renderer.answer(request, "error.html", view, None)
        response.status_code = problem.status
        return response
