"""The health check: of a store that answers and one that does not, of a backlog, of queues; as a command too."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import crewbus
from crewbus.cli import main
from crewbus.stores import Backlog
from crewbus_metrics import Metrics, health
from crewbus_metrics import queues as queues_module


@pytest.fixture
def bus():
    with crewbus.Bus([Metrics(lambda _: None)], entry_points=False, strict=True) as bus:
        bus.enable_recording(crewbus.MemoryStore())
        yield bus


class Behind(crewbus.MemoryStore):
    """A store that says that it is behind."""

    def backlog(self):
        return Backlog(7, 4096, 1.25)


class Broken(crewbus.MemoryStore):
    """A store that does not answer."""

    def root_of(self, run_id):
        raise crewbus.RecordingError("the disk is gone")


class Queue:
    """As much of a queue as the check looks at."""

    name, waiting, later, running, stuck, oldest = "default", 2, 0, 1, 0, 12.5


def test_a_healthy_bus(bus):
    found = health(bus)
    assert found.healthy
    assert found.seconds is not None
    assert json.loads(json.dumps(found.as_dict()))["healthy"] is True


def test_a_store_that_does_not_answer(bus):
    bus.recording.use_store(Broken())
    found = health(bus)
    assert not found.healthy
    assert found.seconds is None
    assert found.problems == ("the store does not answer: the disk is gone",)


def test_a_backlog(bus):
    bus.recording.use_store(Behind())
    assert health(bus).healthy
    assert health(bus, max_backlog=2).healthy
    found = health(bus, max_backlog=1)
    assert found.problems == ("the store is 1.2 s behind, and 1 s are allowed",)
    assert found.backlog == Backlog(7, 4096, 1.25)


def test_a_run_that_no_worker_takes(bus, monkeypatch):
    monkeypatch.setattr("crewbus_metrics.checks.open_queues", lambda _: [Queue()])
    assert health(bus, max_wait=20).healthy
    found = health(bus, max_wait=10)
    assert found.problems == ("a run has waited in queue default for 12.5 s; 10 s are allowed",)
    assert found.queues[0].running == 1


def test_the_command(bus, capsys):
    assert main(["health"], bus=bus) == 0
    assert "answered in" in capsys.readouterr().out


def test_the_command_shows_what_is_wrong(bus, capsys, monkeypatch):
    monkeypatch.setattr("crewbus_metrics.checks.open_queues", lambda _: [Queue()])
    assert main(["health", "--max-wait", "10", "--json"], bus=bus) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["healthy"], found["queues"][0]["waiting"]) == (False, 2)


def test_the_command_without_a_store(bus, capsys):
    assert main(["health", "--store", "nowhere:x", "--json"], bus=bus) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] is None
    assert found["problems"][0].startswith("the store can't be opened")


def test_the_queues_of_crewbus_workers(bus):
    workers = pytest.importorskip("crewbus_workers")
    assert queues_module.HAS_QUEUES
    bus.plugins.register(pytest.importorskip("crewbus_workers.plugin"), "workers")

    @workers.workflow(name="health-check")
    def check():
        return None

    workers.enqueue(bus, check, id="q1")
    (queue,) = health(bus).queues
    assert (queue.name, queue.waiting, queue.running) == ("default", 1, 0)


def test_it_is_a_command_of_its_own_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CREWBUS_PLUGINS": "crewbus_metrics:Metrics"}
    command = [sys.executable, "-m", "crewbus", "health", "--store", "memory:", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, json.loads(done.stdout)["healthy"]) == (0, True)
