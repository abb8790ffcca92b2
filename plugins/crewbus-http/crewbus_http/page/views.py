"""The views of the page: each reads, and answers as HTML or JSON."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import attrs
from starlette.responses import PlainTextResponse, RedirectResponse

from crewbus import InputError, RunInfo, RunNotFoundError
from crewbus_http.page import comparison, event_table, run_list, storage
from crewbus_http.page.fleet import Fleet, can_requeue, survey
from crewbus_http.page.query import STATES, RunQuery
from crewbus_http.page.rendering import HEADERS, Renderer, base_of, wants_json
from crewbus_http.page.run_view import PANEL, RunView, view_as_json
from crewbus_http.page.timeline import Row
from crewbus_http.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crewbus_http.service import RunService

ENDED: Final = ("finished", "failed", "cancelled")


class Views:
    """What the page shows."""

    def __init__(self, service: RunService, renderer: Renderer) -> None:
        self.service = service
        self.renderer = renderer

    # Runs

    async def home(self, request: Request) -> Response:
        """The list is the first page."""
        return RedirectResponse(f"{base_of(request)}/runs", 307)

    async def runs(self, request: Request) -> Response:
        """The list of runs."""
        page = await self.read_list(request)
        runs = [self.service.info_as_json(info) for info in page.runs]
        view = {"page": page, "states": STATES, "ended": ENDED, "here": "runs"}
        return self.renderer.answer(request, "runs.html", view, {"runs": runs, "next": page.next})

    async def read_list(self, request: Request) -> run_list.RunPage:
        """The page of the list that the URL asks for."""
        await self.service.access.require(request, "list")
        query = RunQuery.parse(request.query_params.multi_items())
        page = await asyncio.to_thread(run_list.run_page, self.service.bus, query)
        return attrs.evolve(page, runs=await self.service.access.readable(request, page.runs))

    async def run(self, request: Request) -> Response:
        """One run, as of an event."""
        found = await self.service.access.find(request, "read")
        if not found.is_root:
            return RedirectResponse(f"{base_of(request)}/runs/{quote(found.root.id, safe='')}", 307)
        return await asyncio.to_thread(self._show_run, request, found.root.id)

    def _show_run(self, request: Request, run_id: str) -> Response:
        view = self.open(request, run_id)
        shown = {**self.run_context(view), "here": "runs"}
        as_json = view_as_json(view, self.service.info_as_json(view.info)) if wants_json(request) else None
        return self.renderer.answer(request, "run.html", shown, as_json)

    def open(self, request: Request, run_id: str) -> RunView:
        """Read a run as the URL asks for."""
        query = request.query_params
        upto = number(query, "at")
        unfolded = [int(text) for text in query.getlist("open")[:200] if text.isascii() and text.isdecimal()]
        return RunView(self.service.bus, run_id, upto, unfolded)

    def run_context(self, view: RunView) -> dict[str, Any]:
        """What the template of a run shows."""
        speaker = view.speaker
        passages = speaker.text.passages(PANEL) if speaker is not None else []
        can = can_requeue(view.info)
        return {"view": view, "info": view.info, "speaker": speaker, "passages": passages, "can_requeue": can}

    async def events(self, request: Request) -> Response:
        """A window of the event table."""
        found = await self.service.access.find(request, "read")
        first = number(request.query_params, "from") or 0
        record = self.service.bus.record_of(found.root.id)
        window = await asyncio.to_thread(event_table.event_window, record, first, found.root.events - 1)
        view = {"window": window, "info": found.root, "here": "runs"}
        return self.renderer.answer(request, "events.html", view, attrs.asdict(window))

    async def row(self, request: Request) -> Response:
        """One row of a run, with all that is known of it, and the form that edits a step's result."""
        found = await self.service.access.find(request, "read")
        row, end = await asyncio.to_thread(self._read_row, request, found.root.id)
        passages = row.text.passages(50_000)
        shown = {"info": found.root, "row": row, "end": end, "passages": passages, "here": "runs"}
        started = attrs.asdict(row.opened)
        told = {"seq": row.seq, "kind": row.kind, "state": row.state, "error": row.error or None, "started": started}
        path = [one.label for one in row.path()]
        return self.renderer.answer(
            request, "row.html", shown, {**told, "path": path, "result": row.result, "text": row.text.whole()}
        )

    def _read_row(self, request: Request, run_id: str) -> tuple[Row, Any]:
        view = RunView(self.service.bus, run_id)
        row = view.timeline.row(request.path_params["seq"])
        if row is None:
            raise Problem("not-found", "nothing started with that event")
        end = self.service.bus.store.event(run_id, row.closed) if row.closed is not None else None
        return row, event_table.fields_of(end.data) if end is not None else None

    async def text(self, request: Request) -> Response:
        """The whole text that a row streamed, as plain text."""
        found = await self.service.access.find(request, "read")
        row, _ = await asyncio.to_thread(self._read_row, request, found.root.id)
        return PlainTextResponse(row.text.whole().encode("utf-8", "replace"), headers=HEADERS)

    async def compare(self, request: Request) -> Response:
        """Two runs side by side."""
        ids = [request.query_params.get(name, "").strip() for name in ("one", "other")]
        found = None
        if all(ids):
            runs = [await self.service.access.find(request, "read", run_id) for run_id in ids]
            found = await asyncio.to_thread(comparison.compare, self.service.bus, *(run.id for run in runs))
        view = {"ids": ids, "found": found, "here": "compare"}
        return self.renderer.answer(request, "compare.html", view, found and attrs.asdict(found))

    # The fleet and the store

    async def fleet(self, request: Request) -> Response:
        """Queues, workers, leases, and what waits for an operator."""
        found = await self.survey(request)
        return self.renderer.answer(request, "fleet.html", {"fleet": found, "here": "fleet"}, attrs.asdict(found))

    async def survey(self, request: Request) -> Fleet:
        """The fleet, with the runs that the client may read."""
        await self.service.access.require(request, "list")
        found = await asyncio.to_thread(survey, self.service.bus)
        if not self.service.access.is_open:
            lists = [found.stuck, found.interrupted, found.handed_over, *(one.runs for one in found.holders.values())]
            for runs in lists:
                runs[:] = [held for held in runs if await self._may_read(request, held.id)]
        return found

    async def _may_read(self, request: Request, run_id: str) -> bool:
        try:
            info = await self.service.bus.records.ainfo(run_id)
        except RunNotFoundError:  # somebody has deleted it meanwhile
            return False
        return await self.service.access.allows(request, "read", info)

    async def store(self, request: Request) -> Response:
        """The size of the store, its backlog, and a dry run of prune."""
        await self.service.access.require(request, "list")
        prune = storage.Prune.parse(request.query_params)
        measured = await asyncio.to_thread(storage.measure, self.service.bus)
        tried = await asyncio.to_thread(storage.try_prune, self.service.bus, prune) if prune else None
        runs = await self.service.access.readable(request, tried.runs) if tried is not None else []
        view = {"storage": measured, "prune": prune, "tried": tried, "runs": runs, "here": "store"}
        as_json = {**attrs.asdict(measured), "prune": tried and {"count": tried.count, "runs": self._ids(runs)}}
        return self.renderer.answer(request, "store.html", view, as_json)

    @staticmethod
    def _ids(runs: Iterable[RunInfo]) -> list[str]:
        return [info.id for info in runs]


def number(query: Any, name: str) -> int | None:
    """A number in a URL, or None; raises `InputError` for anything else."""
    text = query.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InputError(f"{name}={text[:50]!r} is not the number of an event")
    return min(int(text), sys.maxsize)
