"""The example service: two servers and their workers on one database, killed, deployed, and left by their clients."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from http_helpers import PATIENCE, processes

import crewbus
from crewbus_sqlite import SQLiteStore

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "service.py"
TEXT = "tides part 0 tides part 1 tides part 2 Publish?"
RESULT = "tides 0; tides 1; tides 2"
ENDS = ("RunFinished", "RunFailed", "RunCancelled")


class Service:
    """Two server processes, and the workers."""

    def __init__(self, running):
        self.running = running
        self.workers = []
        self.servers = [self._served() for _ in range(2)]
        self.urls = [self._url_of(server) for server in self.servers]

    def _served(self):
        # So that waits are cancelled for a heartbeat all the time.
        options = ("--write", "--port", "0", "--heartbeat", "0.02", "--grace", "1")
        plugins = ("crewbus_workers.plugin", "crewbus_http.plugin")
        return self.running.start("serve", str(EXAMPLE), *options, plugins=plugins)

    def _url_of(self, server):
        return self.running.begun(server, "serving on ").split()[2].strip(",")

    def worker(self):
        started = self.running.worker(str(EXAMPLE))
        self.workers.append(started)
        return started

    def dismiss_workers(self):
        """Kill the workers."""
        for worker in self.workers:
            worker.kill()
            worker.wait(PATIENCE)
        self.workers.clear()

    def start(self, text="tides", key=None, server=0):
        """POST a run, and return its id."""
        headers = {"Idempotency-Key": key} if key else {}
        url = f"{self.urls[server]}/workflows/newsroom/runs"
        answer = httpx.post(url, json={"arguments": {"topic": text}}, headers=headers, timeout=PATIENCE)
        assert answer.status_code == 202, answer.text
        return answer.json()["run"]

    def look(self, run, server=1):
        return httpx.get(f"{self.urls[server]}/runs/{run}", timeout=PATIENCE).json()

    def result(self, run):
        return httpx.get(f"{self.urls[1]}/runs/{run}/result", timeout=PATIENCE).json()["result"]

    def answer(self, run, text="yes", key=None, server=1):
        headers = {"Idempotency-Key": key} if key else {}
        url = f"{self.urls[server]}/runs/{run}/messages"
        return httpx.post(url, json={"channel": "answer", "payload": text}, headers=headers, timeout=PATIENCE)

    def cancel(self, run, server=1):
        return httpx.post(f"{self.urls[server]}/runs/{run}/cancel", json={}, timeout=PATIENCE)

    def follow(self, run, after=None):
        """GET the events, and return what is answered if that is not a stream."""
        headers = {"Last-Event-ID": after} if after is not None else {}
        return httpx.get(f"{self.urls[0]}/runs/{run}/events", headers=headers, timeout=PATIENCE)

    def record_of(self, run):
        with crewbus.Bus(entry_points=False) as bus:
            bus.recording.use_store(SQLiteStore(self.running.folder / "runs.db"))
            return list(bus.record_of(run))

    def close(self):
        """Stop the servers, which have reported no error."""
        for server in self.servers:
            server.terminate()
        for server in self.servers:
            _, err = server.communicate(timeout=PATIENCE)
            assert "Traceback" not in err, err


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with processes(tmp_path_factory.mktemp("service")) as running, closing(Service(running)) as made:
        yield made


@pytest.fixture
def service(servers):
    """The servers, without the workers of other tests."""
    yield servers
    servers.dismiss_workers()


class Event(NamedTuple):
    """A server-sent event."""

    id: str
    name: str
    data: dict[str, Any]


def parsed(lines):
    """The event that these lines are; None for a comment."""
    fields = dict(line.split(": ", 1) for line in lines if not line.startswith((":", "retry: ")))
    if not fields:
        return None
    data = json.loads(fields["data"])
    return Event(fields["id"], fields["event"], {"seq": data["seq"], "parent": data["parent"], **data["event"]})


class Reader:
    """A client that follows a run, and reconnects with the id of the last event that it has."""

    def __init__(self, service, run):
        self.service = service
        self.run = run
        self.events = []
        self.comments = 0
        self.connections = 0

    @property
    def over(self):
        return bool(self.events) and self.events[-1].name in ENDS

    @property
    def text(self):
        pieces = []
        for event in self.events:
            if event.name == "Chunk":
                pieces.append(event.data)
            elif event.name == "Retracted":
                gone = crewbus.Retracted(event.data["since"], "", tuple(event.data["parents"]))
                pieces = [piece for piece in pieces if not gone.covers(piece["seq"], piece["parent"])]
        return "".join(piece["text"] for piece in pieces)

    def add(self, event):
        assert event not in self.events
        self.events.append(event)

    def received(self):
        """What arrives on the next connection, which goes to the other server: events, and None for a comment."""
        url = f"{self.service.urls[self.connections % 2]}/runs/{self.run}/events"
        headers = {"Last-Event-ID": self.events[-1].id} if self.events else {}
        self.connections += 1
        with httpx.stream("GET", url, headers=headers, timeout=PATIENCE) as response:
            assert response.status_code == 200
            lines = []
            for line in response.iter_lines():
                if line:
                    lines.append(line)
                elif lines:
                    yield parsed(lines)
                    lines = []

    def read(self, until, most=None):
        """Follow until ``until(self)``; with ``most``, the connection is cut after so many events."""
        end = time.monotonic() + 3 * PATIENCE
        while not until(self):
            count = 0
            with closing(self.received()) as received:
                for event in received:
                    assert time.monotonic() < end, self.events
                    if event is None:
                        self.comments += 1
                        continue
                    self.add(event)
                    count += 1
                    if until(self) or count == most:
                        break
        return self


def has_chunks(count):
    return lambda reader: sum(event.name == "Chunk" for event in reader.events) >= count


def is_asked(reader):
    return reader.text.endswith("Publish?")


def is_over(reader):
    return reader.over


def steps_of(service, run):
    """The results of the parts in the order of the record; none of them was begun after it had ended."""
    record = service.record_of(run)
    begun = {one.id: one.event.identity for one in record if isinstance(one.event, crewbus.StepStarted)}
    ended, results = set(), []
    for envelope in record:
        if isinstance(envelope.event, crewbus.StepStarted):
            assert envelope.event.identity not in ended
        if isinstance(envelope.event, crewbus.StepFinished):
            ended.add(begun[envelope.parent])
            if envelope.event.name.endswith("write"):
                results.append(envelope.event.result)
    return results


PARTS = ["tides 0", "tides 1", "tides 2"]


def test_a_client_that_loses_every_connection_has_each_frame_once(service):
    service.worker()
    run = service.start(key="order-7")
    assert service.start(key="order-7", server=1) == run == "order-7"
    reader = Reader(service, run).read(is_asked, most=1)
    assert service.answer(run).status_code == 202
    reader.read(is_over, most=1)
    assert (reader.text, reader.events[-1].name) == (TEXT, "RunFinished")
    assert reader.connections >= 11
    assert (service.look(run)["state"], service.result(run)) == ("finished", RESULT)


def test_a_run_can_be_followed_before_it_begins(service):
    run = service.start()
    reader = Reader(service, run)
    assert service.look(run)["state"] == "queued"
    waiting = reader.received()
    assert next(waiting) is None  # the heartbeat: there is nothing yet, and it is no end
    service.worker()
    reader.add(next(event for event in waiting if event is not None))
    waiting.close()
    reader.read(is_asked)
    service.answer(run, "no")
    reader.read(is_over)
    assert reader.text == TEXT
    assert service.result(run) == "(withdrawn)"


def killed(service, worker, run):
    worker.kill()
    worker.wait(PATIENCE)


def deployed(service, worker, run):
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=PATIENCE)
    assert f"{run} suspended" in err
    assert worker.returncode == 0


@pytest.mark.parametrize("disturb", [killed, deployed])
@pytest.mark.parametrize("chunks", [1, 5])
def test_another_worker_continues_what_one_leaves(service, disturb, chunks):
    first = service.worker()
    run = service.start()
    reader = Reader(service, run).read(has_chunks(chunks))
    disturb(service, first, run)
    service.worker()
    reader.read(is_asked)
    assert service.answer(run).status_code == 202
    reader.read(is_over)
    assert (reader.text, reader.events[-1].name) == (TEXT, "RunFinished")
    assert service.result(run) == RESULT
    assert steps_of(service, run) == PARTS
    assert any(isinstance(envelope.event, crewbus.RunResumed) for envelope in service.record_of(run))


def test_followers_outlive_the_worker_they_follow(service):
    """A second worker waits already; the connection may end, but no follower is told that the run has."""
    first = service.worker()
    run = service.start()
    reader = Reader(service, run).read(has_chunks(2))
    service.worker()
    killed(service, first, run)
    reader.read(is_asked)
    service.answer(run)
    assert reader.read(is_over).text == TEXT
    assert {event.name for event in reader.events} <= {"Chunk", "Retracted", "RunFinished"}


def test_servers_are_deployed_while_they_are_followed(tmp_path):
    with processes(tmp_path) as running, closing(Service(running)) as service:
        service.worker()
        reader = Reader(service, service.start())
        received = reader.received()
        reader.add(next(event for event in received if event is not None))
        server = service.servers.pop(0)
        server.terminate()
        with suppress(httpx.RemoteProtocolError):  # the answer is cut, in place of its end
            for event in received:
                if event is not None:
                    reader.add(event)
        assert not reader.over
        reader.read(is_asked)  # from the other server, whose turn it is
        service.answer(reader.run)
        reader.connections = 1
        assert reader.read(is_over).text == TEXT
        assert server.communicate(timeout=PATIENCE)[1].endswith("stopped\n")


def test_cancelling_reaches_whichever_worker_executes_the_run(service):
    for _ in range(2):
        service.worker()
    runs = [service.start() for _ in range(4)]
    readers = [Reader(service, run).read(has_chunks(1)) for run in runs]
    for place, run in enumerate(runs):
        assert service.cancel(run, server=place % 2).status_code == 202
    for reader in readers:
        assert reader.read(is_over).events[-1].name == "RunCancelled"
        assert service.look(reader.run)["state"] == "cancelled"


def test_what_waits_in_the_queue_is_cancelled_without_a_worker(service):
    run = service.start()
    assert service.cancel(run).json()["was"] == "queued"
    assert service.look(run)["state"] == "cancelled"
    assert Reader(service, run).read(is_over).text == ""


def test_an_answer_is_consumed_once_whoever_receives_it_twice(service):
    run = service.start()
    for server in range(2):
        assert service.answer(run, "yes", key="form-1", server=server).status_code == 202  # before anybody has asked
    service.worker()
    Reader(service, run).read(is_over)
    assert service.result(run) == RESULT


def test_wrong_uses_say_what_is_wrong(service):
    service.worker()
    run = service.start()
    reader = Reader(service, run).read(is_asked)
    service.answer(run)
    reader.read(is_over)
    for answer in (service.follow("nobody"), service.cancel("nobody"), service.answer("nobody")):
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:crewbus:not-found")
    other = Reader(service, service.start()).read(has_chunks(1))
    for cursor in ("nonsense", other.events[0].id):
        answer = service.follow(run, after=cursor)
        assert (answer.status_code, "cursor" in answer.json()["detail"]) == (409, True)
    service.cancel(other.run)
    # What has ended takes no answer, stays as it is, and is told to whoever comes late.
    assert service.answer(run, "late").status_code == 409
    service.start("tides", key="order-8")
    url = f"{service.urls[1]}/workflows/newsroom/runs"
    body, headers = {"arguments": {"topic": "moons"}}, {"Idempotency-Key": "order-8"}
    answer = httpx.post(url, json=body, headers=headers, timeout=PATIENCE)
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:crewbus:conflict")
    assert service.cancel(run).json()["was"] == "finished"
    assert service.result(run) == RESULT
    assert "event: " not in service.follow(run, after=reader.events[-1].id).text
    assert Reader(service, run).read(is_over).text == TEXT


# Many clients

CLIENTS = 300


async def connect(url, run):
    """A raw connection that follows a run, and the lines of its answer's body."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /runs/{run}/events HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    assert b" 200 " in await reader.readline()
    while await reader.readline() != b"\r\n":
        pass
    return reader, writer


async def events_on(reader):
    """The events of a chunked body."""
    rest = b""
    while size := int(await reader.readline(), 16):
        rest += await reader.readexactly(size)
        await reader.readline()
        *blocks, rest = rest.split(b"\n\n")
        for block in blocks:
            event = parsed(block.decode().splitlines())
            if event is not None:
                yield event


class Client:
    """One of many, of which some leave after their first event."""

    def __init__(self, service, run, number):
        self.url = service.urls[number % 2]
        self.known = Reader(service, run)
        self.leaves = number % 4 < 2
        self.has_begun = asyncio.Event()

    async def follow(self):
        reader, writer = await connect(self.url, self.known.run)
        try:
            async for event in events_on(reader):
                self.known.add(event)
                self.has_begun.set()
                if self.leaves or self.known.over:
                    break
        finally:
            writer.close()


async def crowd(service, runs, count):
    clients = [Client(service, runs[number % len(runs)], number) for number in range(count)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.follow())
        for client in clients:
            await client.has_begun.wait()
        for run in runs:  # none has ended before all have come, and half have gone
            await asyncio.to_thread(service.answer, run)
    return clients


def held(server):
    """How many threads a process has, and how many files and sockets, but for the database's, which each opens."""
    opened = []
    for file in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.append(file.readlink())
    return [
        len(list(Path(f"/proc/{server.pid}/task").iterdir())),
        sum(".db" not in target.name for target in opened),
    ]


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what a process holds is read in /proc")
def test_clients_that_leave_cost_nothing_and_the_others_miss_nothing(service):
    for _ in range(2):
        service.worker()
    asyncio.run(asyncio.wait_for(crowd(service, [service.start() for _ in range(2)], 40), PATIENCE))
    before = [held(server) for server in service.servers]  # the threads of the servers' executors among them
    runs = [service.start() for _ in range(6)]
    clients = asyncio.run(asyncio.wait_for(crowd(service, runs, CLIENTS), 2 * PATIENCE))
    for client in clients:
        if client.leaves:
            assert len(client.known.events) == 1
        else:
            assert (client.known.text, client.known.events[-1].name) == (TEXT, "RunFinished")
    until = time.monotonic() + PATIENCE
    for server, (threads, files) in zip(service.servers, before, strict=True):
        while (now := held(server))[0] > threads or now[1] > files:
            assert time.monotonic() < until, (now, threads, files)
            service.look(runs[0], server=service.servers.index(server))  # the server goes on
