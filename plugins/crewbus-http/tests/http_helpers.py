"""What the tests share: a server on a free port of this computer, and clients of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

import httpx

import crewbus
from crewbus_http import app
from crewbus_http.commands.serve import Server, listening
from crewbus_sqlite import SQLiteStore

PATIENCE = 120.0
"""Seconds after which a wait means that something hangs."""


@contextmanager
def recording_bus(folder=None):
    """A bus that records, in a file or in memory."""
    with crewbus.Bus(entry_points=False, unscoped="raise") as made:
        made.enable_recording(SQLiteStore(folder / "runs.db") if folder is not None else crewbus.MemoryStore())
        yield made


class Served:
    """A server in a thread, until it is stopped."""

    def __init__(self, application, port=0, grace=5.0):
        self.socket = listening("127.0.0.1", port)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = application
        self.server = Server(application, grace=grace)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.socket.close()


@contextmanager
def served(bus, authorize=None, *, port=0, grace=5.0, **options):
    """A server of the runs of a bus."""
    made = Served(app(bus, authorize, **options), port, grace)
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def client(url, **options):
    """A client that does not wait for ever."""
    with httpx.Client(base_url=url, timeout=PATIENCE, **options) as made:
        yield made


def messages(lines):
    """The server-sent events in the lines of a stream: name, id, data. Comments are left out."""
    fields = {}
    for line in lines:
        if not line:
            if "data" in fields:
                yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def text_of(events):
    """The text of these events, without what was retracted: as a browser would show it."""
    shown = []
    for event in events:
        if event["name"] == "crewbus.Chunk":
            shown.append((event["seq"], event["parent"], event["event"]["text"]))
        elif event["name"] == "crewbus.Retracted":
            gone = crewbus.Retracted(event["event"]["since"], "", tuple(event["event"]["parents"]))
            shown = [one for one in shown if not gone.covers(one[0], one[1])]
    return "".join(text for _, _, text in shown)


def followed(client, run_id, after=None):
    """All events of a run, to its end."""
    headers = {"accept": "text/event-stream"} | ({"last-event-id": after} if after else {})
    with client.stream("GET", f"/runs/{run_id}/events", headers=headers) as response:
        assert response.status_code == 200
        return [data for _, _, data in messages(response.iter_lines())]


class Processes:
    """Other Python processes on the database of a folder, all of which have ended when the test has."""

    def __init__(self, folder):
        self.folder = folder
        self.url = f"sqlite:///{folder / 'runs.db'}?lease=2"
        self.all = []

    def module(self, name, source):
        """Write a module that workers import."""
        (self.folder / f"{name}.py").write_text(textwrap.dedent(source))

    def start(self, *command, plugins=("crewbus_workers.plugin",), **options):
        """Start ``crewbus COMMAND``."""
        given = [part for name in ("crewbus_sqlite._plugin", *plugins) for part in ("-p", name)]
        here = [str(path) for path in sys.path if path]
        env = {**os.environ, "CREWBUS_STORE": self.url, "PYTHONPATH": os.pathsep.join(here), "CREWBUS_RECORD": "off"}
        started = subprocess.Popen(
            [sys.executable, "-m", "crewbus", *given, *command], env=env, cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip
        self.all.append(started)
        return started

    def begun(self, started, words):
        """Wait for the line that begins so, and return it."""
        line = "crewbus: warning: "
        while line.startswith("crewbus: warning: "):  # a plugin that is installed is loaded once
            line = started.stderr.readline()
        assert line.startswith(words), line
        return line

    def worker(self, module="agents"):
        """Start a worker, and wait until it serves."""
        started = self.start("worker", module)
        self.begun(started, "worker of")
        return started

    def close(self):
        """Kill what still runs."""
        for process in self.all:
            if process.poll() is None:
                process.kill()
            process.communicate()


@contextmanager
def processes(folder):
    """Processes that are gone when the block ends."""
    made = Processes(folder)
    try:
        yield made
    finally:
        made.close()
