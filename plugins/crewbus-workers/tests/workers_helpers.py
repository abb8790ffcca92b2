"""What the tests share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import crewbus
from crewbus_sqlite import SQLiteStore

PATIENCE = 60.0
"""Seconds after which a wait means that something hangs."""


def store_for(kind, folder):
    """A store of that kind, empty."""
    return crewbus.MemoryStore() if kind == "memory" else SQLiteStore(folder / "runs.db")


@contextmanager
def recording_bus(kind, folder):
    """A bus that records to a store of that kind."""
    with crewbus.Bus(entry_points=False, unscoped="raise") as made:
        made.enable_recording(store_for(kind, folder))
        yield made


def events_of(bus, run_id):
    """The names of the recorded events of a run."""
    return [type(envelope.event).__name__ for envelope in bus.record_of(run_id)]


class Processes:
    """Other Python processes on one database, all of which have ended when the test has."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.url = f"sqlite:///{folder / 'runs.db'}?lease=2"
        self.all: list[subprocess.Popen[str]] = []

    def module(self, name, source):
        """Write a module that workers import."""
        (self.folder / f"{name}.py").write_text(textwrap.dedent(source))

    def start(self, *command, **options):
        """Start ``crewbus COMMAND``."""
        program = ("-m", "crewbus", "-p", "crewbus_sqlite._plugin", "-p", "crewbus_workers.plugin")
        return self.python(*program, *command, **options)

    def python(self, *command, output=subprocess.PIPE, **settings):
        """Start ``python COMMAND``, with these environment variables."""
        here = [str(path) for path in sys.path if path]
        env = {**os.environ, "CREWBUS_STORE": self.url, "PYTHONPATH": os.pathsep.join(here), "CREWBUS_RECORD": "off"}
        started = subprocess.Popen(
            [sys.executable, *command], env={**env, **settings}, cwd=self.folder, text=True,
            stdout=output, stderr=output,
        )  # fmt: skip
        self.all.append(started)
        return started

    def worker(self, *options, module="agents"):
        """Start a worker of the module, and wait until it serves."""
        started = self.start("worker", module, *options)
        assert started.stderr is not None
        line = "crewbus: warning: "
        while line.startswith("crewbus: warning: "):  # a plugin that is installed is loaded once
            line = started.stderr.readline()
        assert line.startswith("worker of"), line
        return started

    def close(self):
        """Kill what still runs."""
        for process in self.all:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
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
