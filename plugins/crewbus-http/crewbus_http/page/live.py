"""Pages that are looked at while things happen: parts of them are sent anew, as server-sent events.

Each message but one holds a part as a whole, so that a browser that comes back shows what is so now. Of the text that
streams only what is new is sent, once the browser has what was before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import StreamingResponse

from crewbus import RunNotFoundError
from crewbus_http.page.rendering import HEADERS, base_of, token_of
from crewbus_http.page.run_view import PANEL, RunView
from crewbus_http.page.views import ENDED

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crewbus_http.page.views import Views

RETRY: Final = 1000
"""Milliseconds after which a browser comes back."""
APPENDED: Final = 4 * PANEL
"""How much text is added to the panel until it is sent anew."""


class Live:
    """The streams of the live pages."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._service = views.service

    async def run(self, request: Request) -> Response:
        """A run as it goes on."""
        found = await self._service.access.find(request, "read")
        view = await asyncio.to_thread(self._views.open, request, found.root.id)
        return _stream(self._run(request, view))

    async def runs(self, request: Request) -> Response:
        """The list of runs."""

        async def view() -> dict[str, Any]:
            return {"page": await self._views.read_list(request), "ended": ENDED}

        await view()
        return _stream(self._part(request, "runs.html", "runs", view))

    async def fleet(self, request: Request) -> Response:
        """The fleet."""

        async def view() -> dict[str, Any]:
            return {"fleet": await self._views.survey(request)}

        await view()
        return _stream(self._part(request, "fleet.html", "fleet", view))

    async def _part(
        self, request: Request, template: str, block: str, view: Callable[[], Awaitable[dict[str, Any]]]
    ) -> AsyncIterator[bytes]:
        """A block of a page, whenever it has changed."""
        before = ""
        while not self._service.feeds.closed:
            mark = self._service.changes.mark()
            shown = await view()
            now = self._render(request, template, block, shown)
            yield message(block, now) if now != before else b": \n\n"
            before = now
            await self._service.changes.wait(mark)

    async def _run(self, request: Request, view: RunView) -> AsyncIterator[bytes]:
        sent = _Sent()
        while not self._service.feeds.closed:
            mark = self._service.changes.mark()
            try:
                await asyncio.to_thread(view.read)
            except RunNotFoundError:  # somebody has deleted it
                return
            yield b"".join(await asyncio.to_thread(self._news, request, view, sent)) or b": \n\n"
            if not view.is_live:
                yield message("end", "", view.timeline.last)
                return
            await self._service.changes.wait(mark)

    def _news(self, request: Request, view: RunView, sent: _Sent) -> list[bytes]:
        """What the browser does not show yet."""
        found, shown = [], self._views.run_context(view)
        for block in ("summary", "actions", "lines", "status"):
            now = self._render(request, "run.html", block, shown)
            if sent.parts.get(block) != now:
                sent.parts[block] = now
                found.append(message(block, now, view.timeline.last))
        speaker = view.speaker
        if speaker is None:
            return found
        text = speaker.text
        more = text.since(sent.chunks) if sent.goes_on(speaker.seq, text.retracted, text.chunks) else []
        new = sum(len(passage.text) for passage in more)
        if more and sent.appended + new <= APPENDED:
            sent.appended += new
            passages = self._render(request, "run.html", "passages", {**shown, "passages": more})
            found.append(message("more", passages, view.timeline.last))
        elif (sent.speaker, sent.retracted, sent.chunks) != (speaker.seq, text.retracted, text.chunks):
            sent.appended = 0
            found.append(message("panel", self._render(request, "run.html", "panel", shown), view.timeline.last))
        sent.speaker, sent.retracted, sent.chunks = speaker.seq, text.retracted, text.chunks
        return found

    def _render(self, request: Request, template: str, block: str, view: dict[str, Any]) -> str:
        return self._views.renderer.fragment(template, block, view, base_of(request), token_of(request))


class _Sent:
    """What a browser shows."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.speaker = self.retracted = self.chunks = -1
        self.appended = 0

    def goes_on(self, speaker: int, retracted: int, chunks: int) -> bool:
        """Whether what is new of the text can be added to what it shows."""
        return (self.speaker, self.retracted) == (speaker, retracted) and chunks >= self.chunks


def message(event: str, data: str, cursor: int | None = None) -> bytes:
    """A server-sent event."""
    lines = [f"event: {event}", *([f"id: {cursor}"] if cursor is not None else [])]
    lines += [f"data: {line}" for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


def _stream(messages: AsyncIterator[bytes]) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % RETRY
        async for one in messages:
            yield one

    return StreamingResponse(body(), headers={**HEADERS, "x-accel-buffering": "no"}, media_type="text/event-stream")
