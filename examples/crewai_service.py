"""A web service that streams crews to browsers, as server-sent events.

    pip install crewbus-crewai crewbus-sqlite sse-starlette uvicorn
    OPENAI_API_KEY=... python examples/crewai_service.py        # then open http://127.0.0.1:8000

``POST /runs`` with ``{"topic": "tides"}`` starts a crew and returns its run's id; ``GET /runs/ID`` streams the run,
to any number of browsers. Each event's id is a cursor: a browser that lost its connection sends the last id it saw, and
continues from there, with everything it missed, including retractions, and nothing twice. A browser that disconnects
cancels nothing. One that connects late, even after a restart of the service, receives the whole run.

The model is ``OPENAI_MODEL`` at ``OPENAI_BASE_URL``; the runs are recorded in ``CREWBUS_STORE``.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import anyio
import uvicorn
from crewai import LLM, Agent, Crew, Task
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import crewbus
import crewbus_crewai


def article(topic: str) -> str:
    """An article on ``topic``, written by a crew."""
    model, url = os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), os.environ.get("OPENAI_BASE_URL")
    llm = LLM(model=f"openai/{model}", base_url=url, stream=True)
    writer = Agent(role="writer", goal="to write accurately", backstory="You write for a newspaper.", llm=llm)
    editor = Agent(role="editor", goal="to cut what does not", backstory="You edit that newspaper.", llm=llm)
    draft = Task(description="Draft an article on {topic}.", expected_output="a draft", agent=writer)
    final = Task(description="Mend the draft on {topic}.", expected_output="the article", agent=editor)
    crew = Crew(name="writers", agents=[writer, editor], tasks=[draft, final])
    return str(crew.kickoff(inputs={"topic": topic}))


async def write_article(bus: crewbus.Bus, topic: str, *, task_status: anyio.abc.TaskStatus[str]) -> None:
    """Write an article in a thread and a run of its own, even if no client watches; the record has the outcome."""
    async with bus.stream(article, topic) as stream:
        task_status.started(stream.run_id)
        with suppress(Exception):
            await stream.aresult()


async def start(request: Request) -> Response:
    """Start a crew; the response has the id of its run."""
    topic = (await request.json())["topic"]
    run_id = await request.state.crews.start(partial(write_article, request.state.bus, topic))
    return JSONResponse({"run": run_id}, status_code=202, headers={"Location": f"/runs/{run_id}"})


def follow(request: Request) -> EventSourceResponse:
    """Stream a run from its start, or from where this browser lost the connection."""
    cursor = request.headers.get("Last-Event-ID", "start")
    stream = request.state.bus.subscribe(request.path_params["run"], after=cursor)
    return EventSourceResponse(events(stream))


PUBLIC: Final = ("kind", "text", "since", "parents", "count")
"""The fields of events that a browser gets: what an error says may name files and servers."""


async def events(stream: crewbus.Stream) -> AsyncIterator[ServerSentEvent]:
    """The frames of ``stream`` as server-sent events: Chunk, Retracted, and the terminal event."""
    yield ServerSentEvent(retry=1000)  # milliseconds until a browser reconnects
    async with stream:
        async for frame in stream:
            shown = {name: getattr(frame.event, name) for name in PUBLIC if hasattr(frame.event, name)}
            data: dict[str, Any] = {"seq": frame.seq, "parent": frame.parent, **shown}
            yield ServerSentEvent(json.dumps(data), event=type(frame.event).__name__, id=stream.cursor)


def rejection(status: int, text: str, request: Request, error: Exception) -> Response:
    """The response for an unknown run or an invalid cursor, without the error's own text, which names files."""
    return JSONResponse({"error": text}, status_code=status)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Crews</title>
<style>
  body { font: 1.1rem/1.5 Georgia, serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }
  output { display: block; white-space: pre-wrap }
  .first::before { content: "\\A\\A" }
</style>
<form><input name="topic" value="the tides" required> <button>Write</button> <em id="state"></em></form>
<output></output>
<script>
  const output = document.querySelector("output"), state = document.querySelector("#state");

  function follow(run) {
    const source = new EventSource(`/runs/${run}`);  // reconnects with the id of the last event
    const on = (name, handle) => source.addEventListener(name, event => handle(JSON.parse(event.data)));
    const end = name => on(name, () => { source.close(); state.textContent = name; });
    output.replaceChildren();
    source.onopen = () => state.textContent = "...";
    source.onerror = () => state.textContent = "lost";
    on("Chunk", ({seq, parent, kind, text}) => {
      if (kind !== "text") return;
      const first = output.lastChild?.parent !== parent ? "first" : "";  // the first chunk of another answer
      const piece = document.createElement("span");
      output.append(Object.assign(piece, {seq, parent, textContent: text, className: first}));
    });
    on("Retracted", ({since, parents}) => {
      const isIn = ({parent}, id) =>
        parent === id || parent === id + "/" || (id.endsWith("/") && parent.startsWith(id));
      for (const piece of [...output.children])
        if (piece.seq >= since && (!parents.length || parents.some(id => isIn(piece, id)))) piece.remove();
    });
    ["RunFinished", "RunFailed", "RunCancelled", "RunInterrupted"].forEach(end);
  }

  document.forms[0].onsubmit = async event => {
    event.preventDefault();
    const topic = event.target.topic.value;
    const answer = await fetch("/runs", {method: "POST", body: JSON.stringify({topic})});
    location.hash = (await answer.json()).run;
  };
  onhashchange = () => follow(location.hash.slice(1));
  if (location.hash) onhashchange();
</script>
"""


async def page(request: Request) -> Response:
    """The page: it follows the run named after the ``#`` in its address."""
    return HTMLResponse(PAGE)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """A bus that records, and cancels open runs when it closes; a task group for the crews."""
    async with anyio.create_task_group() as crews, crewbus.Bus() as bus:
        bus.enable_recording()
        crewbus_crewai.install(bus)
        yield {"bus": bus, "crews": crews}


app = Starlette(
    lifespan=lifespan,
    routes=[Route("/", page), Route("/runs", start, methods=["POST"]), Route("/runs/{run}", follow)],
    exception_handlers={
        crewbus.RunNotFoundError: partial(rejection, 404, "there is no such run"),
        crewbus.InputError: partial(rejection, 400, "that is not a cursor of this run"),
    },
)

if __name__ == "__main__":
    uvicorn.run(app, timeout_graceful_shutdown=3)
