"""A fleet: three workers that share nothing but the URL, one of which is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from contextlib import ExitStack

import pytest
from poolers import running_pooler
from postgres_helpers import LEASE

import crewbus
from crewbus_postgres import _plugin

workers = pytest.importorskip("crewbus_workers")

PATIENCE = 60.0
AGENTS = """
    import time
    from pathlib import Path
    import crewbus
    from crewbus_workers import workflow

    @crewbus.step
    def written(text: str) -> str:
        with open("calls", "a") as file:
            file.write(f"{text}\\n")
        return text

    @workflow(name="two")
    def two(number: int) -> str:
        first = written(f"{number}a")
        while not Path("go").exists():
            time.sleep(0.02)
        return first + written(f"{number}b")
"""


@pytest.fixture(params=["direct", "pooled"])
def url(request, server, schema):
    """A server, or PgBouncer in transaction mode before one."""
    if request.param == "pooled":
        tcp_server = request.getfixturevalue("tcp_server")
        pooler = request.getfixturevalue("stack").enter_context(running_pooler(tcp_server))
        server = tcp_server.at(pooler)
    return f"{server}{'&' if '?' in server else '?'}schema={schema}&lease={LEASE}"


@pytest.fixture
def stack():
    with ExitStack() as made:
        yield made


@pytest.fixture
def bus(url):
    with crewbus.Bus(entry_points=False, plugins=[("postgres", _plugin)]) as made:
        made.recording.use_store(url)
        yield made


def until(store, condition):
    """Wait until a condition holds of what is recorded."""
    changed = threading.Event()
    stop = store.watch(changed.set)
    try:
        while not condition():
            assert changed.wait(PATIENCE)
            changed.clear()
    finally:
        stop()


def start_worker(url, folder):
    program = [sys.executable, "-m", "crewbus", "-p", "crewbus_postgres._plugin", "-p", "crewbus_workers.plugin"]
    path = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "CREWBUS_STORE": url, "PYTHONPATH": path, "CREWBUS_RECORD": "off"}
    command = [*program, "worker", "agents", "--concurrency", "1"]
    with (folder / "worker.log").open("a") as log:
        return subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)


def test_a_killed_workers_run_is_finished_by_another(url, bus, tmp_path):
    """Each step is executed once, whoever executes it, and no run is lost."""
    (tmp_path / "agents.py").write_text(textwrap.dedent(AGENTS))
    store = bus.store
    with ExitStack() as stack:
        fleet = [start_worker(url, tmp_path) for _ in range(3)]
        for worker in fleet:
            stack.callback(worker.wait)
            stack.callback(worker.kill)
        runs = [workers.enqueue(bus, "two", number) for number in range(3)]

        def have_begun():
            return all("crewbus.StepFinished" in [event.name for event in store.landmarks(run)] for run in runs)

        until(store, have_begun)
        holders = [store.info(run).holder for run in runs]
        assert len({*holders}) == 3
        victims = [worker for worker in fleet if holders[0].startswith(f"process {worker.pid} on ")]
        victims[0].kill()
        victims[0].wait()
        (tmp_path / "go").touch()
        found = [bus.result(run, timeout=PATIENCE) for run in runs]
    assert found == ["0a0b", "1a1b", "2a2b"]
    assert sorted((tmp_path / "calls").read_text().split()) == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert store.info(runs[0]).epoch == 2
