"""The page at ``/ui``: runs, the fleet and the store, for a person in a browser. Each page is also JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crewbus_http.page.routing import routes

if TYPE_CHECKING:
    from crewbus_http.service import RunService as RunService

__all__ = ["routes"]
