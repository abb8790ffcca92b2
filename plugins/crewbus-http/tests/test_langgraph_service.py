"""The example with LangGraph: a browser watches a graph whose worker is killed, and another worker continues it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from browser_helpers import chromium
from http_helpers import PATIENCE, client, followed, processes, text_of

import crewbus
from crewbus_sqlite import SQLiteStore

pytest.importorskip("langgraph", reason="needs langgraph")
pytest.importorskip("crewbus_langchain", reason="needs crewbus-langchain")

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "langgraph_service.py"
FOUND = "The moon moves the tides. "
TEXT = f"{FOUND}The sun helps, and the coast decides how much of it is seen."
GATED = f"""
    import asyncio, sys
    from pathlib import Path

    sys.path.insert(0, {str(EXAMPLE.parent)!r})
    import langgraph_service as service

    answer = service.answer

    async def gated(words):
        async for piece in answer(words):
            yield piece
            while piece == "helps," and not Path("go").exists():
                await asyncio.sleep(0.02)

    service.answer = gated
"""
"""The example, which stops in the middle of its second node until the file ``go`` is there."""


@pytest.fixture
def running(tmp_path):
    with processes(tmp_path) as made:
        made.module("gated", GATED)
        yield made


@pytest.fixture
def url(running):
    options = ("--write", "--port", "0", "--grace", "1")
    server = running.start("serve", str(EXAMPLE), *options, plugins=("crewbus_workers.plugin", "crewbus_http.plugin"))
    return running.begun(server, "serving on ").split()[2].strip(",")


def begin(url):
    body, headers = {"arguments": {"question": "the tides"}}, {"Idempotency-Key": "r1"}
    answer = httpx.post(f"{url}/workflows/report/runs", json=body, headers=headers, timeout=PATIENCE)
    assert (answer.status_code, answer.json()["run"]) == (202, "r1"), answer.text


def killed(worker):
    worker.kill()
    worker.wait(PATIENCE)


def ends_of_steps(folder):
    """The nodes whose ends are in the record; each is there once, unless it was computed twice."""
    with crewbus.Bus(entry_points=False) as bus:
        bus.recording.use_store(SQLiteStore(folder / "runs.db"))
        ends = [one.event for one in bus.record_of("r1") if isinstance(one.event, crewbus.StepFinished)]
    return [end.name for end in ends]


def test_a_graph_is_watched_in_a_browser_killed_and_continued(running, url, tmp_path):
    begin(url)
    with chromium() as person:
        first = running.worker("gated")
        person.open(f"{url}/ui/runs/r1")
        person.sees(f"{FOUND}The sun helps,", ".panel pre")
        killed(first)
        person.sees("interrupted", "h1")
        (tmp_path / "go").touch()
        running.worker("gated")
        person.sees("finished", "h1")
        person.sees("The run is finished.", "[role=status]")
        person.sees("resumed", ".changes")
        person.open("about:blank")
    with client(url) as asked:
        assert asked.get("/runs/r1/result").json()["result"] == TEXT
        assert text_of(followed(asked, "r1")) == FOUND + TEXT
    assert ends_of_steps(tmp_path) == ["__start__", "research", "write"]


def test_a_killed_graph_is_told_exactly_without_a_browser(running, url, tmp_path):
    begin(url)
    first = running.worker("gated")
    with client(url) as asked, asked.stream("GET", "/runs/r1/events", headers={"accept": "text/event-stream"}) as seen:
        next(line for line in seen.iter_lines() if "helps," in line)
    killed(first)
    (tmp_path / "go").touch()
    running.worker("gated")
    with client(url) as asked:
        assert asked.get("/runs/r1/result", params={"wait": 60}).json()["result"] == TEXT
        events = followed(asked, "r1")
    assert text_of(events) == FOUND + TEXT
    assert any(event["name"] == "crewbus.Retracted" for event in events)
    assert ends_of_steps(tmp_path) == ["__start__", "research", "write"]
