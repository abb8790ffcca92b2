"""Protocols of others, each on paths of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from crewbus_http.service import RunService

__all__ = ["routes"]


def routes(service: RunService) -> list[BaseRoute]:  # noqa: ARG001 - there are none yet
    """The routes of all protocols."""
    return []
