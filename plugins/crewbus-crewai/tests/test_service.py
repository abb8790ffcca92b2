"""The example service: HTTP clients and a browser receive its crews' streams despite lost connections."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import socket
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import TIMEOUT
from served import model_server

import crewbus

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "crewai_service.py"
CHUNKS = 12
ENDS = ("RunFinished", "RunFailed", "RunCancelled", "RunInterrupted")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")


@pytest.fixture(scope="module")
def example():
    """The example, as a module."""
    spec = importlib.util.spec_from_file_location("crewai_service", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what crewAI and its dependencies do while they are imported
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with model_server(tmp_path_factory.mktemp("model"), "--chunks", str(CHUNKS), "--delay", "0.01") as url:
        yield url


@pytest.fixture
def configured(model, monkeypatch, tmp_path):
    """An environment that names the model server, and a file to record to."""
    pytest.importorskip("crewbus_sqlite")
    monkeypatch.setenv("OPENAI_BASE_URL", model)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_MODEL", "fake")
    monkeypatch.setenv("CREWBUS_STORE", f"sqlite:///{tmp_path}/runs.db")


@pytest.fixture
def service(example, configured):
    """The address of the running service."""
    with served_app(example.app) as url:
        yield url


@contextmanager
def served_app(app) -> Iterator[str]:
    """The address of ``app`` on a server of its own, on a free port."""
    import crewbus_crewai

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(TIMEOUT)
            crewbus_crewai.uninstall()
    assert not thread.is_alive()


def answer(tag: str, chunks: int = CHUNKS) -> str:
    """What the model server says to each of the two agents of a crew whose topic contains ``tag``, put together."""
    return 2 * "".join(["Final Answer: ", *(f"{tag}:{number} " for number in range(chunks))])


# The client's side


class Event(NamedTuple):
    """A server-sent event."""

    id: str
    name: str
    data: dict[str, Any]


class Reader:
    """What a client of the service knows of a run: the events in order, and where it stands."""

    def __init__(self, url: str, run: str) -> None:
        self.events: list[Event] = []
        self._address = f"{url}/runs/{run}"

    @property
    def over(self) -> bool:
        return bool(self.events) and self.events[-1].name in ENDS

    @property
    def frames(self) -> list[tuple[str, dict[str, Any]]]:
        """The events without their ids: a cursor may say of the same place that more was read ahead."""
        return [(event.name, event.data) for event in self.events]

    @property
    def text(self) -> str:
        pieces: list[dict[str, Any]] = []
        for event in self.events:
            if event.name == "Chunk":
                pieces.append(event.data)
            elif event.name == "Retracted":
                pieces = [piece for piece in pieces if not _covers(event.data, piece)]
        return "".join(piece["text"] for piece in pieces)

    async def read(self, client, most: int | None = None) -> int:
        """Connect from where it stands, read at most so many events, and drop the connection; how many they were."""
        headers = {"Last-Event-ID": self.events[-1].id} if self.events else {}
        before = len(self.events)
        async with client.stream("GET", self._address, headers=headers) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            async for event in parsed(response.aiter_lines()):
                assert event not in self.events
                self.events.append(event)
                if len(self.events) - before == most:
                    break
        return len(self.events) - before


def _covers(retracted, piece) -> bool:
    return crewbus.Retracted(retracted["since"], "", tuple(retracted["parents"])).covers(piece["seq"], piece["parent"])


async def parsed(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """The events of a response, by the rules of the standard as far as the service needs them."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


async def start(client, url: str, tag: str, options: str = "") -> str:
    """The id of the run of a crew that was set to work."""
    response = await client.post(f"{url}/runs", json={"topic": f"RUN={tag} {options} "})
    assert response.status_code == 202
    run = response.json()["run"]
    assert response.headers["location"] == f"/runs/{run}"
    return run


def client():
    """A client with as many connections as it likes."""
    return httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, limits=httpx.Limits(max_connections=None))


async def whole(url: str, run: str) -> Reader:
    """What a client gets that is never cut off."""
    reader = Reader(url, run)
    async with client() as one:
        await reader.read(one)
    return reader


# Tests


def test_a_client_that_reconnects_repeatedly_gets_each_frame_once(service):
    async def main():
        async with client() as one:
            run = await start(one, service, "cut")
            reader = Reader(service, run)
            while not reader.over:
                await reader.read(one, most=3)
            assert await reader.read(one) == 0  # there is nothing behind the end
            return reader, await whole(service, run)

    reader, undisturbed = asyncio.run(main())
    assert reader.frames == undisturbed.frames
    assert reader.text == answer("cut")
    assert reader.events[-1].name == "RunFinished"
    numbers = [event.data["seq"] for event in reader.events]
    assert numbers == sorted(set(numbers))


def test_concurrent_clients_reconnect_independently(service):
    tags = [f"crew-{number}" for number in range(4)]

    async def watch(one, run, step):
        reader = Reader(service, run)
        while not reader.over:
            await reader.read(one, most=step)
        return reader

    async def main():
        async with client() as one:
            runs = await asyncio.gather(*(start(one, service, tag) for tag in tags))
            watchers = [watch(one, run, step) for run in runs for step in (None, 2, 3, 5, 7, 11)]
            return await asyncio.gather(*watchers)

    readers = asyncio.run(main())
    for at, tag in enumerate(tags):
        group = readers[6 * at : 6 * at + 6]
        assert {reader.text for reader in group} == {answer(tag)}
        assert all(reader.frames == group[0].frames for reader in group)


def test_a_client_that_disconnects_cancels_nothing(service):
    async def main():
        async with client() as one:
            run = await start(one, service, "left")
            assert await Reader(service, run).read(one, most=1) == 1
        return await whole(service, run)

    reader = asyncio.run(main())
    assert reader.events[-1].name == "RunFinished"
    assert reader.text == answer("left")


def test_the_chunks_of_a_failed_crew_are_retracted(service):
    async def main():
        async with client() as one:
            run = await start(one, service, "bad", "FAIL=3")
            reader = Reader(service, run)
            while not reader.over:
                await reader.read(one, most=2)
            return reader, await whole(service, run)

    reader, undisturbed = asyncio.run(main())
    assert reader.frames == undisturbed.frames
    assert {"Chunk", "Retracted"} <= {event.name for event in reader.events}
    assert reader.text == ""
    end = reader.events[-1]
    assert end.name == "RunFailed"
    assert end.data.keys() == {"seq", "parent"}  # what the failure said is not for browsers


def test_unknown_runs_and_cursors_are_rejected(service):
    async def main():
        async with client() as one:
            run = await start(one, service, "there", "CHUNKS=1")
            await whole(service, run)
            missing = await one.get(f"{service}/runs/nowhere")
            nonsense = await one.get(f"{service}/runs/{run}", headers={"Last-Event-ID": "7; DROP TABLE"})
        return missing, nonsense

    missing, nonsense = asyncio.run(main())
    assert (missing.status_code, nonsense.status_code) == (404, 400)
    assert missing.json()["error"] == "there is no such run"
    assert nonsense.json()["error"] == "that is not a cursor of this run"


def test_a_restarted_service_continues_at_the_clients_cursor(example, configured):
    async def begin(url):
        async with client() as one:
            run = await start(one, url, "kept", "CHUNKS=1000")
            reader = Reader(url, run)
            await reader.read(one, most=5)
            return run, reader.events

    async def go_on(url, run, events):
        reader = Reader(url, run)
        reader.events = events
        async with client() as one:
            await reader.read(one)
        return reader, await whole(url, run)

    with served_app(example.app) as url:
        run, events = asyncio.run(begin(url))
    with served_app(example.app) as url:
        reader, undisturbed = asyncio.run(go_on(url, run, events))
    assert reader.frames == undisturbed.frames
    assert reader.events[-1].name == "RunCancelled"
    assert answer("kept", 1000).startswith(reader.text)


# In a browser


class Cutting:
    """An application whose streams of runs are cut off after so many messages, as often as there are numbers."""

    def __init__(self, app, after: list[int]) -> None:
        self.cursors: list[str | None] = []
        """What each client that asked for a run gave as the last event that it had seen."""
        self._app = app
        self._after = after

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not scope["path"].startswith("/runs/"):
            await self._app(scope, receive, send)
            return
        self.cursors.append(dict(scope["headers"]).get(b"last-event-id", b"").decode() or None)
        left = self._after.pop(0) if self._after else sys.maxsize

        async def send_some(message):
            nonlocal left
            left -= 1
            if left < 0:
                raise ConnectionAbortedError("cut, for the test")
            await send(message)

        await self._app(scope, receive, send_some)


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window; skips where there is none to drive."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync", "no-proxy-server",
        f"user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as chrome:
        yield chrome


@pytest.fixture
def page(browser):
    """A page of the service, to be looked at."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    class Page:
        def write(self, topic):
            field = browser.find_element(By.NAME, "topic")
            field.clear()
            field.send_keys(topic)
            browser.find_element(By.TAG_NAME, "button").click()

        def end(self):
            """How the run ended that it follows."""
            state = browser.find_element(By.ID, "state")
            return WebDriverWait(browser, TIMEOUT, 0.05).until(lambda _: state.text in ENDS and state.text)

        def text(self):
            return browser.find_element(By.TAG_NAME, "output").get_property("textContent")

    return Page()


def test_a_browser_that_reconnects_shows_the_whole_text(example, configured, browser, page):
    app = Cutting(example.app, after=[6, 4])
    with served_app(app) as url:
        browser.get(url)
        page.write("RUN=shown ")
        assert (page.end(), page.text()) == ("RunFinished", answer("shown"))
        browser.refresh()  # a page that knows nothing gets it all
        assert (page.end(), page.text()) == ("RunFinished", answer("shown"))
    first, *resumed, last = app.cursors
    assert (first, last) == (None, None)
    assert len(set(resumed)) == len(resumed) == 2
    assert None not in resumed


def test_a_browser_removes_retracted_chunks(service, browser, page):
    browser.get(service)
    page.write("RUN=bad FAIL=3 ")
    assert (page.end(), page.text()) == ("RunFailed", "")
