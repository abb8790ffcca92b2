"""Endpoints: a route, what handles it, and how the OpenAPI document describes it, in one place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from crewbus_http.service import RunService

__all__ = ["TEXT", "Endpoint", "described", "parameter"]

Handler: TypeAlias = Callable[["RunService", Request], Awaitable[Response]]


@attrs.frozen
class Endpoint:
    """A method of a path."""

    method: str
    path: str
    """As OpenAPI writes it: ``{run}`` stands for the id of a run, which may have slashes."""
    handler: Handler
    operation: Mapping[str, Any]
    """The Operation Object of the OpenAPI document."""

    def route(self, service: RunService) -> Route:
        """The route."""
        path = self.path.replace("{run}", "{run:path}")
        return Route(path, partial(self.handler, service), methods=[self.method], name=self.operation["operationId"])


TEXT: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^[^\\u0000]*$"}
"""The schema of a text that every store can hold."""
PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def described(
    operation_id: str,
    summary: str,
    answers: Mapping[int, tuple[str, Mapping[str, Any]]],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: Mapping[str, Any] | None = None,
    problems: tuple[int, ...] = (),
) -> dict[str, Any]:
    """An Operation Object. ``answers``: by status, a description and the content by media type."""
    responses: dict[str, Any] = {
        str(status): {"description": text, "content": dict(content)} for status, (text, content) in answers.items()
    }
    for status in sorted({400, 403, 404, 414, 421, 431, 500, 503, *problems}):
        responses[str(status)] = {"description": "A problem", "content": PROBLEM}
    made: dict[str, Any] = {"operationId": operation_id, "summary": summary, "responses": responses}
    if parameters:
        made["parameters"] = parameters
    if body is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": dict(body)}}}
    return made


def parameter(name: str, where: str, schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A Parameter Object."""
    made = {"name": name, "in": where, "description": text, "schema": dict(schema)}
    return made | ({"required": True} if where == "path" else {})
