"""The endpoints of the API, a module for each resource."""

from __future__ import annotations

from typing import Final

from crewbus_http.endpoints import Endpoint
from crewbus_http.routes import actions, events, runs, workflows

__all__ = ["ENDPOINTS"]

# A run's id may have slashes: what stands behind it comes first.
ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *workflows.ENDPOINTS,
    *events.ENDPOINTS,
    *actions.ENDPOINTS,
    *runs.ENDPOINTS,
)
