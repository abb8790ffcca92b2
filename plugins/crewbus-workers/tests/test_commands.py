"""The commands: what they print, their exit codes, and the errors of wrong uses."""

from __future__ import annotations

import json
import signal
import threading

import pytest
from workers_helpers import PATIENCE, processes

import crewbus
from crewbus.cli import main
from crewbus_sqlite import SQLiteStore
from crewbus_workers import enqueue, plugin, queues, send

AGENTS = """
    import os
    import crewbus
    from crewbus_workers import receive, sleep, workflow

    @crewbus.step
    def written(text: str) -> str:
        with open("calls", "a") as file:
            file.write(f"{text} {os.getpid()}\\n")
        return text

    @workflow(name="echo")
    def echo(text: str, times: int = 1) -> str:
        return written(text) * times

    @workflow(name="ask")
    def ask(question: str) -> str:
        written(question)
        return f"{question} {receive('answer')}"

    @workflow(name="forever")
    async def forever() -> None:
        import asyncio

        written("begun")
        await asyncio.Event().wait()

    @workflow(name="deadly")
    def deadly() -> None:
        os.kill(os.getpid(), 9)
"""


@pytest.fixture
def running(tmp_path):
    with processes(tmp_path) as made:
        made.module("agents", AGENTS)
        yield made


@pytest.fixture
def other(running):
    """A bus of this process, on the same database."""
    with crewbus.Bus(entry_points=False) as bus:
        bus.recording.use_store(SQLiteStore(running.folder / "runs.db"))
        yield bus


def calls(running):
    path = running.folder / "calls"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


class Commands:
    def __init__(self, store, capsys):
        self.store = store
        self.capsys = capsys

    def __call__(self, *arguments):
        with crewbus.Bus([("workers", plugin)], entry_points=False) as bus:
            bus.recording.use_store(self.store)
            code = main(list(arguments), bus=bus)
        out, err = self.capsys.readouterr()
        return code, out, err


@pytest.fixture
def command(tmp_path, capsys):
    store = SQLiteStore(tmp_path / "runs.db")
    with crewbus.Bus(entry_points=False) as keeper:
        keeper.recording.use_store(store)  # which stays open between the commands
        yield Commands(store, capsys)


def test_enqueue_send_queues_and_requeue(command):
    queueing = ("enqueue", "echo", "--arg", "text=hi", "--id", "a", "--key", "k", "--tag", "tenant=7")
    assert command(*queueing)[:2] == (0, "a\n")
    assert command(*queueing, "--attach", "--json")[1] == '{"run": "a"}\n'
    assert "with other arguments" in command("enqueue", "echo", "--id", "a", "--key", "k", "--attach")[2]
    command("enqueue", "echo", "--id", "later", "--delay", "3600", "--queue", "slow")
    assert command("send", "a", "answer", '{"x": 1}')[2] == "sent message 0 to run a\n"
    assert command("send", "a", "answer", "text", "--json")[1] == '{"run": "a", "message": 1}\n'
    out = command("queues")[1]
    assert [line.split()[:5] for line in out.splitlines()] == [
        ["queue", "waiting", "later", "running", "stuck"],
        ["default", "1", "0", "0", "0"],
        ["slow", "0", "1", "0", "0"],
    ]
    found = json.loads(command("queues", "--json")[1])
    assert [(queue["name"], queue["waiting"], queue["later"]) for queue in found] == [("default", 1, 0), ("slow", 0, 1)]
    for _ in range(5):
        command.store.release("a", command.store.acquire("a"))
    assert "stuck: a; 'crewbus requeue RUN' has workers try again" in command("queues")[2]
    assert command("requeue", "a")[2] == "run a is queued again\n"
    assert json.loads(command("queues", "--json")[1])[0]["stuck"] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("send", "nobody", "a"), "No runs in"),
        (("enqueue", "a@b@c", "--delay", "-1"), "delay="),
        (("enqueue", "echo", "--arg", "text"), "NAME=VALUE"),
        (("worker", "no_such_module"), "there is no module 'no_such_module'"),
        (("worker", "json"), "no workflow is registered there"),
        (("queues", "--store", "nonsense:"), "no plugin opens the store 'nonsense:'"),
    ],
)
def test_wrong_uses_say_what_is_wrong(command, arguments, text):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert text in err


def test_queues_without_runs(command):
    assert command("queues") == (0, "", "no queue has a run that has not ended\n")


def test_a_worker_executes_what_other_processes_queue(running, other):
    worker = running.worker()
    run_id = enqueue(other, "echo", "ab", times=2)
    assert other.result(run_id, timeout=PATIENCE) == "abab"
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    assert f"echo@1 {run_id} began, epoch 1" in err
    assert "SIGTERM: suspending 0 runs" in err
    assert err.endswith("stopped: 1 finished\n")


def until_recorded(bus, run_id, name):
    """Return once the run has recorded an event of that type."""
    changed = threading.Event()
    unwatch = bus.store.watch(changed.set)
    try:
        while name not in [type(envelope.event).__name__ for envelope in bus.record_of(run_id)]:
            assert changed.wait(PATIENCE)
            changed.clear()
    finally:
        unwatch()


def test_sigterm_suspends_and_another_worker_continues(running, other):
    first = running.worker()
    run_id = enqueue(other, "ask", "really?")
    until_recorded(other, run_id, "StepFinished")
    first.send_signal(signal.SIGTERM)
    assert "1 suspended" in first.communicate(timeout=PATIENCE)[1]
    assert other.records.info(run_id).state == "suspended"
    send(other, run_id, "answer", "yes")
    running.worker()
    assert other.result(run_id, timeout=PATIENCE) == "really? yes"
    assert calls(running) == ["really?"]


def test_a_worker_that_is_killed_leaves_its_runs_to_another(running, other):
    first = running.worker()
    run_id = enqueue(other, "ask", "really?")
    until_recorded(other, run_id, "StepFinished")
    running.worker()
    first.kill()
    send(other, run_id, "answer", "yes")
    assert other.result(run_id, timeout=PATIENCE) == "really? yes"
    assert calls(running) == ["really?"]


def test_a_run_that_kills_its_workers_is_left_alone_after_five(running, other):
    run_id = enqueue(other, "deadly")
    for _ in range(5):
        running.worker().communicate(timeout=PATIENCE)
    last = running.worker()
    done = enqueue(other, "echo", "x")
    assert other.result(done, timeout=PATIENCE) == "x"
    assert last.poll() is None
    assert [queue.stuck for queue in queues(other)] == [1]
    assert other.records.info(run_id).state == "interrupted"


def test_cancelling_reaches_the_worker_that_executes_the_run(running, other):
    for _ in range(2):
        running.worker()
    ids = [enqueue(other, "forever") for _ in range(6)]
    for run_id in ids:
        until_recorded(other, run_id, "StepFinished")
    for run_id in ids:
        other.cancel(run_id, "not needed")
    for run_id in ids:
        with pytest.raises(crewbus.RunCancelledError, match="not needed"):
            other.result(run_id, timeout=PATIENCE)


def test_a_second_signal_stops_at_once(running, other):
    running.module(
        "agents",
        """
        import threading
        from crewbus_workers import workflow

        @workflow(name="deaf")
        def deaf() -> None:
            print("begun", flush=True)
            threading.Event().wait()
        """,
    )
    worker = running.worker("--grace", "1000")
    enqueue(other, "deaf")
    assert worker.stdout.readline() == "begun\n"
    worker.send_signal(signal.SIGTERM)
    while "suspending" not in worker.stderr.readline():
        pass
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 143


@pytest.mark.parametrize("name", ["enqueue", "worker", "send", "queues", "requeue"])
def test_help_fits_80_columns(command, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"usage: crewbus {name}" in out
    assert [line for line in out.splitlines() if len(line) > 80] == []
