"""Machines: workers that share nothing with each other, or with who watches them, but the URL of the database."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from contextlib import ExitStack

import pytest

import crewbus
from crewbus_postgres import _plugin

workers = pytest.importorskip("crewbus_workers")

PATIENCE = 60.0
LEASE = 20.0
"""Seconds: so long that a take-over of a run whose process has died does not wait for the end of its lease."""
AGENTS = """
    import os
    import time
    from pathlib import Path

    import crewbus
    from crewbus_workers import receive, workflow

    MACHINE = os.environ["MACHINE"]
    VERSION = int(os.environ["VERSION"])

    @crewbus.step
    def part(name: str) -> str:
        return f"{name} on {MACHINE}"

    @workflow(name="two parts", version=VERSION)
    def two_parts() -> list:
        for number in range(20):
            crewbus.chunk(f"{number} ")
        first = part("first")
        crewbus.chunk("ready ")
        while not Path("go").exists():
            time.sleep(0.02)
        crewbus.chunk("done")
        return [first, part("second")]

    @workflow(name="short", version=VERSION)
    def short() -> str:
        return f"version {VERSION} on {MACHINE}"

    @workflow(name="chat", version=VERSION)
    def chat() -> None:
        crewbus.chunk(receive("mail"))
        while True:
            crewbus.chunk(".")
            time.sleep(0.05)
"""


class Machine:
    """A worker with a home, a directory and an environment of its own."""

    def __init__(self, name, folder, url, version=1):
        self.name, self.folder = name, folder / name
        self.folder.mkdir()
        (self.folder / "agents.py").write_text(textwrap.dedent(AGENTS))
        home, temporary = self.folder / "home", self.folder / "tmp"
        home.mkdir()
        temporary.mkdir()
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "CREWBUS_STORE": url,
            "CREWBUS_RECORD": "off",
            "MACHINE": name,
            "VERSION": str(version),
        }
        program = [sys.executable, "-m", "crewbus", "-p", "crewbus_postgres._plugin", "-p", "crewbus_workers.plugin"]
        with (self.folder / "worker.log").open("w") as log:
            self.process = subprocess.Popen(
                [*program, "worker", "agents", "--concurrency", "5"], env=env, cwd=self.folder, stdout=log, stderr=log
            )

    def go(self):
        (self.folder / "go").touch()

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def url(tcp_server, schema):
    return f"{tcp_server.url}&schema={schema}&lease={LEASE}"


@pytest.fixture
def bus(url):
    """The third machine: it queues and watches."""
    with crewbus.Bus(entry_points=False, plugins=[("postgres", _plugin)]) as made:
        made.recording.use_store(url)
        yield made


@pytest.fixture
def machine(url, tmp_path):
    with ExitStack() as stack:

        def start(name, **options):
            made = Machine(name, tmp_path, url, **options)
            stack.callback(made.kill)
            return made

        yield start


class Watcher:
    """Reads the frames of a run in a thread, by its cursor: so also while it has no holder."""

    def __init__(self, bus, run_id):
        self.texts = []
        self.changed = threading.Condition()
        self._bus, self._run_id = bus, run_id
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        cursor, pause = "start", threading.Event()
        while cursor is not None:
            cursor = self._follow(cursor)
            pause.wait(0.05)

    def _follow(self, cursor):
        """Read until the run has ended, or is interrupted: then returns the cursor."""
        stream = self._bus.subscribe(self._run_id, after=cursor)
        for envelope in stream:
            if isinstance(envelope.event, crewbus.RunInterrupted):
                return stream.cursor
            if isinstance(envelope.event, crewbus.Chunk):
                with self.changed:
                    self.texts.append(envelope.event.text)
                    self.changed.notify_all()
        return None

    def wait_for(self, text):
        with self.changed:
            assert self.changed.wait_for(lambda: text in self.texts, PATIENCE), self.texts

    def join(self):
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def test_a_killed_machines_run_is_finished_by_another_before_its_lease_has_ended(bus, machine):
    """Who watches on a third machine sees each frame once."""
    run_id = workers.enqueue(bus, "two parts")
    watchers = [Watcher(bus, run_id) for _ in range(3)]
    first = machine("one")
    for watcher in watchers:
        watcher.wait_for("ready ")
    lease_ends = bus.store.info(run_id).until
    other = machine("other")
    other.go()
    first.kill()
    assert bus.result(run_id, timeout=PATIENCE) == ["first on one", "second on other"]
    (resumed,) = [one for one in bus.store.landmarks(run_id) if one.name == "crewbus.RunResumed" and one.seq > 3]
    assert resumed.at < lease_ends
    for watcher in watchers:
        watcher.join()
        assert watcher.texts == [*(f"{number} " for number in range(20)), "ready ", "done"]


def test_machines_execute_the_versions_that_they_register_and_hear_of_messages(bus, machine):
    """During a deployment each run stays with its version; messages and a cancellation reach who holds the run."""
    old, new = machine("old", version=1), machine("new", version=2)
    runs = {number: workers.enqueue(bus, "short", version=1 + number % 2) for number in range(6)}
    unknown = workers.enqueue(bus, "short", version=3)
    found = [bus.result(run_id, timeout=PATIENCE) for run_id in runs.values()]
    assert found == [f"version {1 + number % 2} on {'new' if number % 2 else 'old'}" for number in range(6)]
    chats = [workers.enqueue(bus, "chat", version=version) for version in (1, 2)]
    for run_id in chats:
        watcher = Watcher(bus, run_id)
        workers.send(bus, run_id, "mail", "hello")
        watcher.wait_for("hello")
        watcher.wait_for(".")
        bus.cancel(run_id, "enough")
        with pytest.raises(crewbus.RunCancelledError, match="enough"):
            bus.result(run_id, timeout=PATIENCE)
        watcher.join()
        assert watcher.texts[0] == "hello"
        assert set(watcher.texts[1:]) == {"."}
    assert [bus.store.info(run_id).epoch for run_id in (*runs.values(), unknown)] == [1] * 6 + [0]
    assert old.process.poll() is new.process.poll() is None
