"""Chaos: workers are killed, terminated, and stopped for longer than their leases; each run ends once, and right."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing

import pytest
from workers_helpers import PATIENCE, processes

import crewbus
from crewbus_sqlite import SQLiteStore
from crewbus_workers import enqueue, queues, send

AGENTS = """
    import crewbus
    from crewbus_workers import areceive, asleep, receive, sleep, waiting, workflow

    waiting.HELD = 0.5  # so that most waits suspend their run
    failed = set()

    @crewbus.step
    def part(number: int) -> int:
        return number * number

    @crewbus.step
    async def apart(number: int) -> int:
        return number * number

    @crewbus.step(retries=2, backoff=0.01)
    def flaky(run: str) -> str:
        if run not in failed:
            failed.add(run)
            raise ConnectionError("the first time, in each process")
        return "flaky"

    @workflow(name="sync")
    def work(run: str, parts: int, pause: float, messages: int) -> list:
        done = [part(number) for number in range(parts)]
        sleep(pause)
        with crewbus.run("nested"):
            crewbus.chunk("nested text")
            done.append(part(parts))
        return [*done, flaky(run), *[receive("mail") for _ in range(messages)]]

    @workflow(name="async")
    async def awork(run: str, parts: int, pause: float, messages: int) -> list:
        done = [await apart(number) for number in range(parts)]
        await asleep(pause)
        done.append(await apart(parts))
        return [*done, flaky(run), *[await areceive("mail") for _ in range(messages)]]
"""
LIMIT, PER_KEY = 12, 3
OPTIONS = ("--queue", "open", "--queue", "narrow", "--limit", f"narrow={LIMIT}", "--limit-per-key", str(PER_KEY))
LEASE = 2.0


class Chaos:
    """Four workers, one of which suffers every two seconds, and what they are given to do."""

    def __init__(self, running, bus, seed):
        self.running = running
        self.bus = bus
        self.dice = random.Random(seed)
        self.workers = [self.started() for _ in range(4)]
        self.disturbed = set()
        """The processes whose runs others may take over."""
        self.expected = {}
        self.cancelled = set()
        self.kinds = Counter()

    def started(self):
        return self.running.start("worker", "agents", "--concurrency", "20", *OPTIONS, output=subprocess.DEVNULL)

    def queue(self, number):
        """Queue a run, and say what its result will be."""
        dice = self.dice
        parts, messages = dice.randrange(1, 5), dice.randrange(3)
        key = f"k{dice.randrange(8)}" if dice.random() < 0.3 else None
        queue = "narrow" if dice.random() < 0.3 else "open"
        run_id = f"{queue} {key} {number}"
        name = dice.choice(["sync", "async"])
        enqueue(
            self.bus, name, run_id, parts, dice.random() * 2, messages,
            id=run_id, queue=queue, key=key, delay=dice.choice([0.0, 0.0, 0.5]),
        )  # fmt: skip
        mail = [f"{run_id}/{one}" for one in range(messages)]
        for text in mail:
            for _ in range(dice.choice([1, 2])):  # a key makes the second of two the same message
                send(self.bus, run_id, "mail", text, key=text)
        self.expected[run_id] = [number * number for number in range(parts + 1)] + ["flaky", *mail]
        if dice.random() < 0.1:
            self.cancelled.add(run_id)

    def cancel_some(self):
        for run_id in sorted(self.cancelled):
            if self.dice.random() < 0.2:
                self.bus.cancel(run_id, "chaos")

    def disturb(self):
        """Kill a worker, terminate it, or stop it for longer than its lease; another takes its place."""
        place = self.dice.randrange(len(self.workers))
        worker, kind = self.workers[place], self.dice.choice(["kill", "stop", "terminate"])
        self.kinds[kind] += 1
        self.disturbed.add(worker.pid)
        if kind == "stop":
            worker.send_signal(signal.SIGSTOP)
            self.let_pass(1.5 * LEASE)
            worker.send_signal(signal.SIGCONT)
            worker.send_signal(signal.SIGTERM)
        elif kind == "kill":
            worker.kill()
        else:
            worker.send_signal(signal.SIGTERM)
        self.workers[place] = self.started()

    def let_pass(self, seconds):
        """Watch the limits meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.check_limits()
            time.sleep(0.05)

    def check_limits(self):
        """Look, in one transaction, at the runs whose holders live undisturbed."""
        query = "SELECT root_id, name FROM logs JOIN holders ON token = holder WHERE NOT sealed"
        with closing(sqlite3.connect(f"file:{self.running.folder}/runs.db?mode=ro", uri=True, timeout=60)) as database:
            held = database.execute(query).fetchall()
        live = [root for root, name in held if int(name.split()[1]) not in self.disturbed]
        assert sum(root.startswith("narrow") for root in live) <= LIMIT
        keys = Counter(root.split()[1] for root in live)
        del keys["None"]
        assert max(keys.values(), default=0) <= PER_KEY, keys

    def check(self):
        """Each run has one outcome, and its result holds each message once, in order."""
        for run_id, expected in self.expected.items():
            try:
                assert self.bus.result(run_id, timeout=PATIENCE) == expected
            except crewbus.RunCancelledError:
                assert run_id in self.cancelled
            self.check_record(run_id)
        assert [queue for queue in queues(self.bus) if queue.waiting or queue.running or queue.stuck] == []

    def check_record(self, run_id):
        record = self.bus.record_of(run_id)
        ends, done, retracted = 0, Counter(), []
        envelopes = list(record)
        for envelope in envelopes:
            if isinstance(envelope.event, crewbus.Retracted):
                retracted.append(envelope)
            if isinstance(envelope.event, crewbus.RunFinished | crewbus.RunFailed | crewbus.RunCancelled):
                ends += envelope.run_id == run_id
        assert ends == 1
        started = {
            envelope.id: envelope.event for envelope in envelopes if isinstance(envelope.event, crewbus.StepStarted)
        }
        for envelope in envelopes:
            if isinstance(envelope.event, crewbus.StepFinished):
                undone = any(
                    one.seq > envelope.seq and one.event.covers(envelope.seq, envelope.parent) for one in retracted
                )
                done[started[envelope.parent].identity] += not undone
        assert set(done.values()) <= {0, 1}, done


@pytest.mark.parametrize(
    ("seconds", "runs"),
    [
        pytest.param(40, 150, marks=pytest.mark.slow),
        pytest.param(600, 2_000, marks=[pytest.mark.slow, pytest.mark.minutes]),
    ],
)
def test_no_run_is_lost_done_twice_or_over_a_limit(tmp_path, seconds, runs):
    with processes(tmp_path) as running, crewbus.Bus(entry_points=False) as bus:
        running.module("agents", AGENTS)
        running.url = f"sqlite:///{tmp_path / 'runs.db'}?lease={LEASE}"
        bus.recording.use_store(SQLiteStore(tmp_path / "runs.db", lease=LEASE))
        chaos = Chaos(running, bus, seconds)
        begun = time.monotonic()
        while len(chaos.expected) < runs:
            part = (time.monotonic() - begun) / seconds
            for number in range(len(chaos.expected), min(runs, 1 + int(runs * part))):
                chaos.queue(number)
            chaos.cancel_some()
            chaos.let_pass(2.0)
            chaos.disturb()
        assert set(chaos.kinds) == {"kill", "stop", "terminate"}
        chaos.check()
