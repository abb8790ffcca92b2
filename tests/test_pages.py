"""The documentation where its examples don't reach: its commands, and its plugins when something goes wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from http.server import HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from helpers import BESIDE, TIMEOUT, in_thread

import crewbus
from crewbus.testing import examples

ROOT = Path(__file__).parents[1]
HOWTO = ROOT / "docs" / "howto"


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Python in ``cwd``, with this crewbus and crewbus-sqlite importable; it does not hang."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "CREWBUS", "PYTEST"))}
    importable = [Path(crewbus.__file__).parents[1], BESIDE]
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": os.pathsep.join(map(str, importable)), **env},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def source_of(page: str) -> str:
    """What a how-to guide begins with, without its use."""
    first, *_ = examples(HOWTO / page)
    return re.split(r"^(?=with |here, )", first.code, maxsplit=1, flags=re.MULTILINE)[0]


# The tutorial


def test_the_commands_of_the_tutorial_do_what_it_says(tmp_path):
    page = ROOT / "docs" / "tutorial.md"
    *_, agent = examples(page)
    (tmp_path / "agent.py").write_text(agent.code, "utf-8")
    commands = re.findall(r"^    (OFFLINE=1 )?crewbus (.*)$", page.read_text("utf-8"), re.MULTILINE)
    durable = {"CREWBUS_PLUGINS": "crewbus_sqlite._plugin", "CREWBUS_BLOCK": "sqlite"}  # as if it were installed
    began, shown, resumed = [
        run("-m", "crewbus", *command.split(), cwd=tmp_path, **durable, **({"OFFLINE": "1"} if offline else {}))
        for offline, command in commands
    ]
    assert "ConnectionError: no answer" in began.stderr
    assert "researching Tides" in began.stdout
    assert re.search(r"^  step research +finished", shown.stdout, re.MULTILINE)
    assert re.search(r"^  step write +failed", shown.stdout, re.MULTILINE)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip() == "Tides follow the moon."


# The server


def test_a_browser_with_an_invalid_cursor_gets_an_error_and_does_not_reconnect():
    """An EventSource whose connection is just cut comes back with the same for ever."""
    module: dict[str, Any] = {}
    exec(source_of("stream-to-a-browser.md"), module)
    with crewbus.Bus(entry_points=False) as module["bus"], HTTPServer(("127.0.0.1", 0), module["Runs"]) as server:
        module["bus"].enable_recording()
        with module["bus"].run(id="r1"):
            pass
        answering = in_thread(server.handle_request)
        with pytest.raises(HTTPError, match="404") as refused:
            list(module["read"](f"http://127.0.0.1:{server.server_port}/r1", "garbage"))
        refused.value.close()
        answering.result(TIMEOUT)


# The plugins with a thread of their own


USES = {
    "write-a-recorder.md": "LineRecorder(Path('events.log'))",
    "write-a-transport.md": "Transport(socket.socketpair()[0])",
}


@pytest.mark.parametrize("page", USES)
def test_its_plugin_does_not_delay_the_exit_if_the_bus_is_not_closed(tmp_path, page):
    source = f"{source_of(page)}\nbus = crewbus.Bus([{USES[page]}], entry_points=False)\nprint('over')"
    assert run("-c", source, cwd=tmp_path).stdout == "over\n"


def test_the_recorder_reports_what_could_not_be_written_and_continues(tmp_path):
    module: dict[str, Any] = {}
    exec(source_of("write-a-recorder.md"), module)
    log = tmp_path / "not yet" / "events.log"
    with crewbus.Bus([module["LineRecorder"](log)], entry_points=False) as bus:
        with bus.run(record=True):
            pass
        with pytest.raises(crewbus.RecordingError, match="No such file"):
            bus.flush(TIMEOUT)
        log.parent.mkdir()
        with bus.run(record=True):
            pass
        bus.flush(TIMEOUT)
        assert re.findall(r"crewbus\.\w+", log.read_text()) == ["crewbus.RunStarted", "crewbus.RunFinished"]


def test_the_transport_continues_without_listeners():
    module: dict[str, Any] = {}
    exec(source_of("write-a-transport.md"), module)
    here, there = module["socket"].socketpair()
    there.close()
    transport = module["Transport"](here)
    with crewbus.Bus([transport], entry_points=False) as bus, bus.run():
        bus.chunk("Tides")
        bus.chunk("follow")
    assert transport.lost == 3
