"""What the forms of the page do: each redirects to the page that shows what came of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from starlette.responses import RedirectResponse

from crewbus_http.page.rendering import base_of, checked_form
from crewbus_http.page.storage import Prune
from crewbus_http.problems import Problem
from crewbus_workers import requeue

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crewbus_http.service import RunService

_SEE_OTHER: Final = 303


class Actions:
    """What the page changes, if the server allows it."""

    def __init__(self, service: RunService) -> None:
        self._service = service

    async def fork(self, request: Request) -> Response:
        """Fork a run, with the result of a step edited; workers continue the fork of a queued run."""
        found = await self._service.access.find(request, "fork")
        form = await checked_form(request)
        edits = {form["step"]: _json(form.get("result", ""))} if form.get("step") else {}
        fork_id = await self._service.fork(found.id, None, edits)
        return self._show(request, fork_id)

    async def cancel(self, request: Request) -> Response:
        """Cancel a run."""
        found = await self._service.access.find(request, "cancel")
        form = await checked_form(request)
        await self._service.cancel(found.id, form.get("reason", "").strip() or "cancelled from the page")
        return self._show(request, found.id)

    async def requeue(self, request: Request) -> Response:
        """Have workers continue a run."""
        found = await self._service.access.find(request, "start")
        await checked_form(request)
        await asyncio.to_thread(requeue, self._service.bus, found.id)
        return self._show(request, found.id)

    async def send(self, request: Request) -> Response:
        """Send a run a message."""
        found = await self._service.access.find(request, "send")
        form = await checked_form(request)
        await self._service.send(found.id, form.get("channel", ""), _json(form.get("payload", "")))
        return self._show(request, found.id)

    async def prune(self, request: Request) -> Response:
        """Delete what the form chooses. Only where nobody else decides: it concerns all runs."""
        access = self._service.access
        await access.require(request, "cancel")
        form = await checked_form(request)
        if not access.is_open:
            raise Problem("forbidden", "this server may not delete runs: use the command crewbus prune")
        prune = Prune.parse(form)
        await asyncio.to_thread(lambda: prune.run(self._service.bus, dry_run=False))
        return RedirectResponse(f"{base_of(request)}/store", _SEE_OTHER)

    @staticmethod
    def _show(request: Request, run_id: str) -> Response:
        return RedirectResponse(f"{base_of(request)}/runs/{quote(run_id, safe='')}", _SEE_OTHER)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Problem("invalid", "that is not JSON: put text in double quotes") from None
