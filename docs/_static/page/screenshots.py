"""Makes the pictures of the page beside this file: ``python docs/_static/page/screenshots.py``.

It fills a store with runs of two versions of a workflow, executed by processes of which one is killed and one is told
to stop, as in a deploy; serves it; and looks at it with Chromium. Needs selenium and chromedriver.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crewbus
from crewbus_workers import enqueue, requeue, worker, workflow

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PICTURES = (
    ("runs", "/runs", 1600, "light"),
    ("failed", "/runs/order-archive", 1600, "light"),
    ("failed-narrow", "/runs/order-archive", 380, "dark"),
    ("edit", "{step}", 1600, "light"),
    ("compare", "/compare?one=order-tides&other={fork}", 1600, "light"),
    ("past", "/runs/order-tides?at=26", 1600, "dark"),
    ("fleet", "/fleet", 1600, "dark"),
    ("fleet-narrow", "/fleet", 380, "light"),
    ("store", "/store?keep=3", 1600, "light"),
)
"""A name, an address, a width in pixels, and a colour scheme."""


@crewbus.step
def research(topic: str) -> list[str]:
    """Search."""
    with crewbus.call("search", kind="tool", attributes={"source": "web"}):
        time.sleep(0.08)
    return [f"{topic} in Brittany", f"{topic} on the Moon"]


@crewbus.step
def fetch(page: int) -> int:
    """Fetch a page."""
    time.sleep(0.01)
    return page


@crewbus.step
def draft(sources: list[str]) -> str:
    """Write, at the second attempt."""
    run = crewbus.current_run()
    assert run is not None
    with crewbus.call("writer", kind="model", attributes={"model": "gpt-5-mini"}) as call:
        with contextlib.suppress(ConnectionError), run.attempt():
            crewbus.chunk("The wind drives the tides, ")
            time.sleep(0.05)
            raise ConnectionError("reset by peer")
        with run.attempt():
            crewbus.chunk("Two sources agree: the Moon. ", "reasoning")
            for word in f"{sources[0].capitalize()} rise and fall because the Moon pulls at the sea.".split():
                crewbus.chunk(f"{word} ")
                time.sleep(0.01)
        call.finish(usage={"input_tokens": 1204, "output_tokens": 311}, cost=0.0123)
    return f"{sources[0].capitalize()} rise and fall."


@crewbus.step
def publish(text: str, archive: bool) -> str:
    """Publish."""
    with crewbus.call("archive", kind="tool"):
        time.sleep(0.04)
        if not archive:
            raise TimeoutError("the archive did not answer within 30 s")
    return f"/stories/{len(text)}"


def newsroom(topic: str, archive: bool = True, waits: bool = False) -> str:
    """A story on a topic."""
    sources = research(topic)
    for page in range(8):
        fetch(page)
    while waits:
        time.sleep(0.05)
        crewbus.current_run().check()  # type: ignore[union-attr]
    with crewbus.run("writer"):
        text = draft(sources)
    return publish(text, archive)


def work(store: str, version: int) -> None:
    """Be a worker process."""
    workflow(name="newsroom", version=version)(newsroom)
    with crewbus.Bus() as bus:
        bus.enable_recording(store)
        stop: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
        with worker(bus, queues=[f"v{version}"]):
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            while not stop:
                time.sleep(0.05)
        bus.close(suspend=True)


@contextlib.contextmanager
def process(store: str, version: int) -> Iterator[subprocess.Popen[str]]:
    """A worker process."""
    command = [sys.executable, __file__, "worker", store, str(version)]
    made = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    made.stdout.readline()
    try:
        yield made
    finally:
        made.kill()
        made.wait()


def wait_for(bus: crewbus.Bus, run_id: str, state: str, events: int = 0) -> None:
    """Wait until a run is in a state, with so many events."""
    until = time.monotonic() + 60
    while (info := bus.records.info(run_id)).state != state or info.events < events:
        assert time.monotonic() < until, info
        time.sleep(0.05)


def fill(bus: crewbus.Bus, store: str, stack: contextlib.ExitStack) -> dict[str, str]:
    """Record what the pictures show; returns what their addresses need."""
    for name, topic, archive in (("tides", "tides", True), ("storms", "storms", True), ("archive", "eclipses", False)):
        enqueue(bus, "newsroom", topic, archive, id=f"order-{name}", queue="v1", version=1, tags={"tenant": "7"})
    first = stack.enter_context(process(store, 1))
    for name, state in (("tides", "finished"), ("storms", "finished"), ("archive", "failed")):
        wait_for(bus, f"order-{name}", state)
    steps = [one for one in bus.record_of("order-tides") if isinstance(one.event, crewbus.StepStarted)]
    step = next(one for one in steps if one.event.name == "research")
    fork = bus.fork("order-tides", edits={"research": ["spring tides in Brittany"]})
    requeue(bus, fork)
    wait_for(bus, fork, "finished")
    for number in range(3):  # held by the first process, which is killed
        enqueue(bus, "newsroom", "waves", waits=True, id=f"lost-{number}", queue="v1", version=1)
        wait_for(bus, f"lost-{number}", "running", 20)
    first.kill()
    first.wait()
    second = stack.enter_context(process(store, 2))
    enqueue(bus, "newsroom", "currents", waits=True, id="deployed", queue="v2", version=2)
    wait_for(bus, "deployed", "running", 20)
    second.terminate()
    second.wait()
    for number in range(4):
        enqueue(
            bus, "newsroom", "coasts", waits=True, id=f"coast-{number}", queue="v3", version=3, tags={"tenant": "9"}
        )
    stack.enter_context(process(store, 3))
    for number in range(4):
        wait_for(bus, f"coast-{number}", "running", 20)
    enqueue(bus, "newsroom", "reefs", id="next-in-line", queue="v2", version=2)
    enqueue(bus, "newsroom", "harbours", id="tomorrow", queue="v3", version=3, delay=86_400)
    return {"step": f"/rows/order-tides/{step.seq}", "fork": fork}


def main() -> None:
    """Make the pictures."""
    sys.path.insert(0, str(ROOT / "plugins" / "crewbus-http" / "tests"))
    from browser_helpers import chromium, screenshot
    from http_helpers import served

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        store = f"sqlite:///{folder}/crewbus.db"
        bus = stack.enter_context(crewbus.Bus())
        bus.enable_recording(store)
        names: dict[str, Any] = fill(bus, store, stack)
        server = stack.enter_context(served(bus, write=True))
        person = stack.enter_context(chromium())
        for name, path, width, scheme in PICTURES:
            person.open(f"{server.url}/ui{path.format(**names)}")
            screenshot(person, HERE / f"{name}.png", width, scheme, 1500)
        person.open("about:blank")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(sys.argv[2], int(sys.argv[3]))
    else:
        main()
