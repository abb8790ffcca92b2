"""Errors as problem details (RFC 9457), which say what the client can do and nothing about the server."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import crewbus
from crewbus_http.json_response import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Problem", "handlers", "problem_of"]

log: Final = logging.getLogger("crewbus.http")

TITLES: Final = {
    "conflict": (409, "The state of the run does not allow this"),
    "cross-site": (403, "Another site may not do this"),
    "forbidden": (403, "Not allowed"),
    "headers-too-large": (431, "The headers are too large"),
    "internal": (500, "The server failed"),
    "invalid": (422, "The request does not fit"),
    "malformed": (400, "The request can't be read"),
    "method-not-allowed": (405, "Method not allowed"),
    "misdirected": (421, "This server answers for loopback addresses only"),
    "nested": (409, "The run is nested in another: name that one"),
    "not-acceptable": (406, "None of the accepted media types is available"),
    "not-found": (404, "Not found"),
    "read-only": (403, "This server is read-only"),
    "too-large": (413, "The body is too large"),
    "unavailable": (503, "Not available at present"),
    "unsupported-media-type": (415, "The body must be application/json"),
    "uri-too-long": (414, "The address is too long"),
}
"""By its kind: the status and title of a problem."""


class Problem(Exception):
    """What was wrong with a request. ``detail`` and ``members`` are sent: they tell no internals."""

    def __init__(self, kind: str, detail: str = "", **members: Any) -> None:
        self.kind: Final = kind
        self.status, self.title = TITLES[kind]
        self.detail: Final = detail
        self.members: Final = members
        super().__init__(f"{self.title}: {detail}")

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The answer."""
        content: dict[str, Any] = {"type": f"urn:crewbus:{self.kind}", "title": self.title, "status": self.status}
        if self.detail:
            content["detail"] = self.detail
        return json_response(
            content | self.members, self.status, headers=headers, media_type="application/problem+json"
        )


# The most special ones first.
_KINDS: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (crewbus.RunNotFoundError, "not-found", "there is no such run"),
    (crewbus.RunIdInUseError, "conflict", "a run with this id exists, and it is another one"),
    (crewbus.RunEndedError, "conflict", "the run has ended"),
    (crewbus.RunHeldError, "conflict", "another process executes the run"),
    (crewbus.StepError, "invalid", "the edits do not fit the finished steps of the run"),
    (crewbus.UnserializableError, "invalid", "a value can't be recorded"),
    (crewbus.OversizedEventError, "too-large", "a value is too large to be recorded"),
    (crewbus.InputError, "invalid", "a value does not fit"),
    (crewbus.RunError, "conflict", "the state of the run does not allow this"),
    (crewbus.BusClosedError, "unavailable", "the server is stopping"),
    (crewbus.RecordingError, "unavailable", "the store does not answer, or can't do this"),
)


def problem_of(error: BaseException) -> Problem:
    """The problem that an exception is for a client. Its text stays here, in the log where that is of use."""
    if isinstance(error, Problem):
        return error
    for cls, kind, detail in _KINDS:
        if isinstance(error, cls):
            if kind == "unavailable":
                log.warning("%s: %s", type(error).__name__, error)
            return Problem(kind, detail)
    return Problem("internal")


async def answer(_: Request, error: Exception) -> Response:
    """Answer an exception of crewbus's, or a `Problem`."""
    problem = problem_of(error)
    if problem.status == 500:
        log.error("a request failed", exc_info=error)
    return problem.response()


async def answer_http(_: Request, error: Any) -> Response:
    """Answer an `HTTPException` of Starlette's."""
    kinds = {status: kind for kind, (status, _) in TITLES.items() if kind not in ("cross-site", "read-only", "nested")}
    kind = kinds.get(error.status_code, "internal" if error.status_code >= 500 else "malformed")
    return Problem(kind).response(headers=error.headers)


def handlers() -> dict[Any, Any]:
    """The exception handlers of an application."""
    from starlette.exceptions import HTTPException

    return {Problem: answer, crewbus.CrewbusError: answer, HTTPException: answer_http, Exception: answer}
