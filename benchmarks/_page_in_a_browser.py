"""How fluent the page of crewbus-http is with 10,000 runs in its list and 20,000 events in a run: in Chromium.

``python -m benchmarks._page_in_a_browser`` needs crewbus-http, selenium, Chromium and chromedriver. Each line is the
median and the worst of some repetitions, in milliseconds from the click until the page is drawn, with what it holds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import crewbus

RUNS = 10_000
STEPS = 4_000
CHUNKS = 12_000
REPEATS = 5
TIMES = """
    const [page] = performance.getEntriesByType("navigation");
    const elements = document.querySelectorAll("*").length;
    return [page.loadEventEnd - page.startTime, page.responseEnd - page.requestStart, elements];
"""
SLIDE = """
    const [at, done] = arguments, slider = document.getElementById("at"), start = performance.now();
    const drawn = () => requestAnimationFrame(() => done(performance.now() - start));
    document.body.addEventListener("htmx:afterSettle", drawn, {once: true});
    slider.value = at;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
"""


@crewbus.step
def fetch(page: int) -> int:
    """A step of many."""
    return page


def fill(bus: crewbus.Bus) -> None:
    """Record a long list and a long run."""
    with bus.run("long", id="long"):
        for page in range(STEPS):
            fetch(page)
        with bus.call("model", kind="model"):
            for number in range(CHUNKS):
                bus.chunk(f"word {number} ")
    for number in range(RUNS - 1):
        with bus.run("newsroom", id=f"run-{number}", tags={"tenant": str(number % 7)}):
            pass
    bus.flush()


def show(what: str, times: list[float], details: str = "") -> None:
    """Print a line."""
    print(f"{what:46} {statistics.median(times):7.0f} ms   worst {max(times):7.0f} ms   {details}", flush=True)


def load(person: Any, what: str, urls: list[str]) -> None:
    """Open pages."""
    found = []
    for url in urls:
        person.open(url)
        person.wait(lambda: person.ask(TIMES)[0] > 0)
        found.append(person.ask(TIMES))
    server = statistics.median(one[1] for one in found)
    show(what, [one[0] for one in found], f"server {server:.0f} ms, {found[-1][2]} elements")


def main() -> None:
    """Measure."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "crewbus-http" / "tests"))
    from browser_helpers import chromium  # type: ignore[import-not-found]
    from http_helpers import served  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder, crewbus.Bus() as bus:
        bus.enable_recording(f"sqlite:///{folder}/crewbus.db")
        fill(bus)
        with served(bus) as server, chromium() as person:
            ui = f"{server.url}/ui"
            person.open(f"{ui}/runs")
            load(person, f"the list of {RUNS:,} runs", [f"{ui}/runs"] * REPEATS)
            load(person, "filtered by a tag", [f"{ui}/runs?tag=tenant%3D3"] * REPEATS)
            for place in (100, 5_000, RUNS - 100):
                load(person, f"its page after {place:,} runs", [f"{ui}/runs?after=run-{RUNS - place}"] * REPEATS)
            events = bus.records.info("long").events
            load(person, f"a run of {events:,} events", [f"{ui}/runs/long"] * REPEATS)
            load(person, "its first steps unfolded", [f"{ui}/runs/long?open=1"] * REPEATS)
            slides = [person.chrome.execute_async_script(SLIDE, at) for at in range(1_000, events, events // REPEATS)]
            show("the slider, to another moment", slides)
            load(person, "a window of its events", [f"{ui}/events/long?from={at}" for at in (0, 9_000, events - 50)])
            person.open("about:blank")


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"in {time.perf_counter() - started:.0f} s", file=sys.stderr)
