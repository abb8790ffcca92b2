"""Notebooks: what runs, records and streams look like there, and a stream that is shown as it grows."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers import TIMEOUT, quiet_bus

import crewbus
from crewbus.notebook import live

HOSTILE = "<script>alert('x')</script>&\x1b[31m\u202eevil\ud800"
SHOWN = "<script>alert('x')</script>&\\x1b[31m\\u202eevil\\ud800"


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(name: str) -> None:
    crewbus.chunk(name)
    with crewbus.call(name, input=name):
        crewbus.chunk(name)
    crewbus.chunk("thought", kind="reasoning")
    raise ValueError(name)


@pytest.fixture
def failed():
    """A bus, and a run whose every text is hostile."""
    with quiet_bus() as bus:
        bus.enable_recording(content=True)
        with pytest.raises(ValueError, match="script"), bus.run(HOSTILE, tags={HOSTILE: HOSTILE}) as run:
            hostile(HOSTILE)
        yield bus, run


def test_a_record_is_its_tree_with_states_times_and_texts(failed):
    bus, run = failed
    page = Tags(bus.records.get(run.id)._repr_html_())
    assert page.tags == {"code", "div", "small", "span", "strong", "table", "tbody", "td", "th", "thead", "tr"}
    assert page.text.count(SHOWN) >= 4  # its name, its text, the call's text, the error
    assert re.search(r"call .*finished\+\d+ ms|call .*finished\+<1 ms", page.text, re.DOTALL)
    assert "thought" not in page.text
    assert run.id in page.text
    assert "failed" in page.text


@pytest.mark.parametrize("shown", ["run", "records", "stream", "unrecorded"])
def test_nothing_that_is_shown_is_markup(failed, shown):
    bus, run = failed
    if shown == "stream":
        found: Any = bus.subscribe(run.id, after="start")
        assert found.text()
    elif shown == "unrecorded":
        found = bus.run(HOSTILE, tags={HOSTILE: HOSTILE})
    else:
        found = run if shown == "run" else bus.records
    page = found._repr_html_()
    assert SHOWN in unescape(page)
    assert "script" not in Tags(page).tags
    assert page.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page)


def test_a_nested_run_is_shown_as_itself():
    with quiet_bus() as bus, bus.run("outer", record=True), bus.run("inner") as inner:
        crewbus.chunk("inside")
    page = Tags(bus.records.get(inner.id)._repr_html_()).text
    assert page.startswith("inner finished")
    assert "inside" in page
    assert "outer" not in page


def test_a_retracted_text_is_not_shown():
    with quiet_bus() as bus, bus.run("r", record=True) as run:
        with pytest.raises(ConnectionError), run.attempt():
            crewbus.chunk("never")
            raise ConnectionError
        with run.attempt():
            crewbus.chunk("kept")
    page = Tags(bus.records.get(run.id)._repr_html_()).text
    assert "retracted" in page
    assert "kept" in page
    assert "never" not in page


def test_a_run_that_is_not_recorded_says_how_to_see_its_tree():
    with quiet_bus() as bus, bus.run("r") as run:
        assert "record=True" in run._repr_html_()


def test_a_run_whose_store_is_gone_is_shown_without_it(tmp_path):
    class Gone(crewbus.MemoryStore):
        def root_of(self, run_id: str) -> str | None:
            raise crewbus.RecordingError("the <store> is gone")

    with quiet_bus() as bus:
        bus.enable_recording(Gone())
        with bus.run("r") as run:
            pass
        assert "the &lt;store&gt; is gone" in run._repr_html_()


def test_long_records_and_texts_are_cut_and_say_so():
    with quiet_bus() as bus, bus.run("r", record=True) as run:
        crewbus.chunk("a" * 20_000 + "the end")
        for number in range(300):
            with crewbus.call(f"call-{number}"):
                pass
    page = Tags(bus.records.get(run.id)._repr_html_()).text
    assert "the end" in page
    assert "10,007 characters before" in page
    assert len(page) < 40_000
    assert f"101 more: crewbus show {run.id}" in page
    assert "call-298" not in page


def test_a_stream_shows_what_its_consumer_has_taken():
    taken = threading.Event()

    def work() -> None:
        crewbus.chunk("one ")
        assert taken.wait(TIMEOUT)
        crewbus.chunk("two")

    with quiet_bus() as bus, bus.stream(work) as stream:
        frames = iter(stream)
        next(frames)
        first = stream._repr_html_()
        taken.set()
        next(frames)
        assert "one " in first
        assert "two" not in first
        assert "one two" in stream._repr_html_()


def test_live_takes_a_stream():
    with pytest.raises(crewbus.TargetError, match="takes a stream"):
        asyncio.run(live(print))  # type: ignore[arg-type]


def test_live_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with quiet_bus() as bus, pytest.raises(crewbus.TargetError, match="install ipykernel"):
        asyncio.run(live(bus.stream(print)))


# In a kernel

CELLS = [
    # A display that shows the first words while the work waits for it to: the loop of the kernel is not blocked.
    """
import threading
import crewbus
from crewbus.notebook import live

gate, updates = threading.Event(), []
publisher = get_ipython().display_pub
publish = publisher.publish

def watched(data, *args, **kwargs):
    updates.append(data.get("text/html", ""))
    if "first words" in updates[-1]:
        gate.set()
    return publish(data, *args, **kwargs)

publisher.publish = watched

def researcher(topic):
    crewbus.chunk(f"first words on {topic}, ")
    assert gate.wait(60)
    crewbus.chunk("and the <last>")
    return 3

bus = crewbus.Bus(entry_points=False)
stream = bus.stream(researcher, "tides")
await live(stream)
publisher.publish = publish
print(stream.result(), stream.text())
""",
    # What a cell ends with.
    """
async with bus.stream(researcher, "rain", options=crewbus.StreamOptions(record=True)) as stream:
    async for envelope in stream:
        pass
stream.run
""",
    "bus.records",
    "bus.records.get(stream.run.id)",
    # The failure is raised once it is shown.
    """
def fails():
    crewbus.chunk("so far")
    raise ValueError("no tides")

try:
    await live(bus.stream(fails))
except ValueError as error:
    print(error)
""",
    # Plain `with` and `for` say what to write.
    """
for statement in ("with bus.stream(researcher, 1) as s: pass", "for e in bus.stream(researcher, 1): pass"):
    try:
        exec(statement)
    except crewbus.ConsumptionError as error:
        print(error)
""",
    "await bus.aclose()",
]


@pytest.mark.heavy
def test_a_kernel_shows_runs_records_and_streams(tmp_path, monkeypatch):
    reason = "python -m pip install ipykernel nbclient: a notebook's kernel is needed"
    client = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(crewbus.__file__).parents[1])]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    client.NotebookClient(
        notebook, timeout=TIMEOUT, startup_timeout=TIMEOUT, resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = ["".join(map(as_text, cell.outputs)) for cell in notebook.cells]
    grown, run, records, record, failure, errors, _ = shown
    assert "first words on tides, and the &lt;last&gt;" in grown
    assert "3 first words on tides, and the <last>" in grown
    assert "run __main__.researcher" in run
    assert "__main__.researcher" in records
    assert record == run
    assert "so far" in failure
    assert "no tides" in failure
    assert errors.count("use 'async with'") == errors.count("use 'async for'") == 1


def as_text(output: Any) -> str:
    return output.get("text") or output.data.get("text/html", "")
