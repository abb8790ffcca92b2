"""The page in a real browser: what a person sees, while workers die, servers restart, and texts are hostile."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from browser_helpers import chromium, resize
from http_helpers import PATIENCE, recording_bus, served

import crewbus
from crewbus_workers import enqueue

WORKFLOWS = """
    import sys, time
    from pathlib import Path
    import crewbus
    from crewbus_workers import worker, workflow

    here = Path(sys.argv[1])

    @crewbus.step
    def research(topic):
        return f"about {topic}"

    @workflow(name="story")
    def story(topic):
        found = research(topic)
        bus = crewbus.current_bus()
        with bus.call("model"):
            for number in range(6):
                bus.chunk(f"{number} ")
                if number == 2 and not (here / "go").exists():
                    (here / "reached").touch()
                    while not (here / "go").exists():
                        time.sleep(0.02)
        return found

    with crewbus.Bus() as bus:
        bus.enable_recording(f"sqlite:///{here / 'runs.db'}")
        with worker(bus):
            print("ready", flush=True)
            sys.stdin.read()
"""


@pytest.fixture(scope="module")
def person():
    with chromium() as made:
        yield made


@pytest.fixture
def look(person):
    """The browser, which must have nothing to complain about in the end, and have asked no other host."""
    person.complaints()
    person.requests()
    yield person
    assert person.complaints() == []
    hosts = {url.split("/")[2].partition(":")[0] for url in person.requests() if url.startswith("http")}
    assert hosts == {"127.0.0.1"}


@contextlib.contextmanager
def shown(bus, person, **options):
    """A server for a browser, which leaves before it stops."""
    with served(bus, **options) as server:
        yield server
        person.open("about:blank")


@pytest.fixture
def bus(tmp_path):
    with recording_bus(tmp_path) as made:
        yield made


class Workers:
    """Worker processes of a store, which can be killed."""

    def __init__(self, folder):
        self._folder = folder
        self._script = folder / "workers.py"
        self._script.write_text(dedent(WORKFLOWS), "utf-8")
        self._all = []

    def start(self):
        paths = os.pathsep.join([str(Path(crewbus.__file__).parents[1]), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": paths}
        worker = subprocess.Popen(
            [sys.executable, self._script, self._folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._all.append(worker)
        assert worker.stdout.readline() == "ready\n"
        return worker

    def kill(self, worker):
        worker.send_signal(signal.SIGKILL)
        worker.wait(PATIENCE)

    def close(self):
        for worker in self._all:
            worker.kill()
            worker.wait(PATIENCE)
            worker.stdin.close()
            worker.stdout.close()


@pytest.fixture
def workers(tmp_path):
    made = Workers(tmp_path)
    yield made
    made.close()


PATHS = (
    "runs", "runs/bad", "runs/good?at=4", "events/bad", "rows/bad/2", "compare?one=good&other=bad", "fleet",
    "store?keep=0",
)  # fmt: skip
"""Every page, with what `filled` records."""


def filled(bus):
    with bus.run("newsroom", id="good"), bus.call("model"):
        for number in range(8):
            bus.chunk(f"{number} ")
    with contextlib.suppress(TimeoutError), bus.run("newsroom", id="bad"), bus.run("writer"), bus.call("archive"):
        raise TimeoutError("no answer")


COUNTING = """
    return Array.from(document.querySelectorAll(".panel pre > :not(del)"), (one) => one.textContent).join("");
"""
"""The text that streams, without what was taken back."""


def test_a_run_is_followed_while_its_worker_is_killed_and_another_continues(bus, workers, tmp_path, look):
    run_id = enqueue(bus, "story", "tides")
    with shown(bus, look) as server:
        first = workers.start()
        look.open(f"{server.url}/ui/runs/{run_id}")
        look.sees("0 1 2", ".panel pre")
        workers.kill(first)
        look.sees("interrupted", "h1")
        (tmp_path / "go").touch()
        workers.start()
        look.sees("finished", "h1")
        look.wait(lambda: look.ask(COUNTING).split() == ["0", "1", "2", "3", "4", "5"])  # each part comes by itself
        look.sees("resumed", ".changes")
        look.sees("The run is finished.", "[role=status]")
        look.wait(lambda: look.ask("return document.querySelector('#lines del')"))  # what the first one streamed


AT_ONCE = """
    const {source} = window, panel = document.querySelector(".panel").innerHTML;
    source.close();  // so that nothing comes in between
    for (const [name, data] of [["panel", panel], ["more", arguments[0]]])
        source.dispatchEvent(new MessageEvent(name, {data}));
"""
KEEP_SOURCE = """
    document.body.addEventListener("htmx:sseMessage", (event) => { window.source = event.detail.target; });
"""


def test_text_that_comes_in_the_same_moment_as_its_panel_is_shown(bus, look):
    with shown(bus, look) as server, bus.run("newsroom", id="live"), bus.call("model"):
        bus.chunk("one ")
        look.open(f"{server.url}/ui/runs/live")
        look.ask(KEEP_SOURCE)
        bus.chunk("two ")
        look.sees("one two", ".panel pre")
        look.ask(AT_ONCE, '<span class="t-text">three</span>')
        assert look.text(".panel pre") == "one two three"


def test_a_browser_comes_back_after_the_server_has_restarted(bus, person):
    with bus.run("newsroom", id="live"), bus.call("model"):
        bus.chunk("before ")
        with served(bus) as server:
            person.open(f"{server.url}/ui/runs/live")
            person.sees("before", ".panel pre")
            port = server.port
        bus.chunk("meanwhile ")
        with shown(bus, person, port=port):
            person.sees("before meanwhile", ".panel pre")
            bus.chunk("after")
            person.sees("before meanwhile after", ".panel pre")
            assert person.text(".panel pre") == "before meanwhile after"
            person.complaints()  # the connection was refused


def test_a_step_is_edited_and_its_fork_continued(bus, workers, tmp_path, look):
    (tmp_path / "go").touch()
    run_id = enqueue(bus, "story", "tides")
    workers.start()
    with shown(bus, look, write=True) as server:
        look.open(f"{server.url}/ui/runs/{run_id}")
        look.sees("finished", "h1")
        look.follow("step research")
        look.write("#result", '"about moons"')
        look.click(".edit button")
        look.wait(lambda: run_id not in look.chrome.current_url and "/runs/" in look.chrome.current_url)
        look.sees("finished", "h1")
        look.sees("edited", "#lines")
        fork_id = look.chrome.current_url.rpartition("/")[2]
        assert bus.result(fork_id, timeout=PATIENCE) == "about moons"
        look.follow("compare")
        look.sees("They diverge in")


HOSTILE = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>\u202etxt.exe</pre></table>"


def test_hostile_text_is_text(bus, look):
    with bus.run(HOSTILE, id="hostile", tags={"a": HOSTILE}), bus.call(HOSTILE):
        bus.chunk(HOSTILE)
        with shown(bus, look) as server:
            for path in ("runs", "runs/hostile", "events/hostile", "rows/hostile/1"):
                look.open(f"{server.url}/ui/{path}")
                assert "<script>window.pwned" in look.text()
                assert look.ask(
                    "return [window.pwned || 0, document.querySelectorAll('main script, main img').length]"
                ) == [0, 0]
            look.open(f"{server.url}/ui/runs/hostile")
            look.sees("⟨U+202E⟩txt.exe", ".panel pre")
            bus.chunk(HOSTILE * 2)  # and as it streams
            look.wait(lambda: look.text(".panel pre").count("<script>") == 3)
            bus.chunk("x" * 10_000_000)
            look.sees("characters before", ".panel pre")
            assert look.ask("return [window.pwned || 0, document.body.innerHTML.length < 100000]") == [0, True]


def test_the_fleet_is_seen_while_a_process_dies_and_another_takes_over(bus, workers, tmp_path, look):
    run_id = enqueue(bus, "story", "tides")
    with shown(bus, look) as server:
        look.open(f"{server.url}/ui/fleet")
        look.sees("1 queued")
        first = workers.start()
        look.sees("story", "[aria-label^=Processes]")
        look.sees(f"process {first.pid}", "[aria-label^=Processes]")
        workers.kill(first)
        look.sees(run_id, "[aria-label^=Interrupted]")
        (tmp_path / "go").touch()
        workers.start()
        look.sees("No process executes a run.")
        look.sees("0 interrupted")


def test_the_list_is_live_and_filtered_by_its_url(bus, look):
    filled(bus)
    with shown(bus, look) as server:
        look.open(f"{server.url}/ui/runs")
        look.click("input[value=failed]")
        look.click(".filters button")
        look.wait(lambda: "state=failed" in look.chrome.current_url)
        assert "good" not in look.text("#rows")
        assert "TimeoutError: no answer" in look.text("#rows")
        with contextlib.suppress(ValueError), bus.run("newsroom", id="another"):
            raise ValueError("odd")
        look.sees("another", "#rows")


def test_the_keyboard_and_the_slider_are_enough(bus, look):
    from selenium.webdriver.common.keys import Keys

    filled(bus)
    with shown(bus, look) as server:
        look.open(f"{server.url}/ui/runs")
        look.press("j", "j")
        assert "good" in look.ask("return document.activeElement.textContent")
        look.press("k", Keys.ENTER)
        look.sees("Failed in newsroom")
        look.open(f"{server.url}/ui/runs/good")
        look.press("[", "[", "[", "[")
        look.wait(lambda: look.chrome.current_url.endswith("?at=7"))
        look.wait(lambda: look.text("pre.text") == "0 1 2 3 4 5")
        assert "open" in look.text("h1")
        look.chrome.back()
        look.sees("finished", "h1")
        look.press("/")  # nothing to filter here
        look.open(f"{server.url}/ui/runs")
        look.press("/")
        assert look.ask("return document.activeElement.id") == "filter"


def test_every_page_can_be_read_by_a_screen_reader(bus, look):
    filled(bus)
    with shown(bus, look, write=True) as server:
        for path in PATHS:
            look.open(f"{server.url}/ui/{path}")
            assert look.ask(STRUCTURE) == [], path


# What a person without eyes needs: landmarks, one heading, headers of tables, labels of fields and buttons.
STRUCTURE = """
    const wrong = [];
    const all = (selector) => Array.from(document.querySelectorAll(selector));
    const check = (holds, what) => holds || wrong.push(what);
    check(document.documentElement.lang === "en", "language");
    check(all("main").length === 1 && all("h1").length === 1, "main and heading");
    check(all("header nav[aria-label]").length === 1 && all("[aria-current=page]").length <= 1, "navigation");
    for (const table of all("table"))
        check(table.getAttribute("aria-label") && table.querySelector("thead th[scope=col]"), table.className);
    for (const row of all("tbody tr")) check(row.querySelector("th[scope=row], td.empty"), "row " + row.id);
    for (const field of all("input:not([type=hidden]), textarea")) check(field.labels.length, "field " + field.name);
    for (const one of all("button, a")) check(one.ariaLabel || one.textContent.trim(), one.outerHTML);
    const ids = all("[id]").map((one) => one.id);
    check(new Set(ids).size === ids.length, "ids");
    const levels = all("h1, h2, h3").map((one) => Number(one.tagName[1]));
    levels.forEach((level, at) => check(!at || level <= levels[at - 1] + 1, "level of heading " + at));
    return wrong;
"""


def axe():
    """The script of axe-core, if somebody has it: the path is in CREWBUS_AXE."""
    path = os.environ.get("CREWBUS_AXE")
    return Path(path).read_text("utf-8") if path else None


@pytest.mark.skipif(axe() is None, reason="needs axe.min.js of npm's axe-core, named by CREWBUS_AXE")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(bus, look, scheme):
    filled(bus)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    look.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    with shown(bus, look, write=True) as server:
        for path in PATHS:
            look.open(f"{server.url}/ui/{path}")
            look.ask(axe())
            found = look.chrome.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
            assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == [], path


def test_texts_and_tables_fit_a_narrow_window(bus, look):
    filled(bus)
    with shown(bus, look, write=True) as server:
        for width in (380, 1600):
            resize(look, width)
            for path in PATHS:
                look.open(f"{server.url}/ui/{path}")
                wide = look.ask("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, (path, width)
        look.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
