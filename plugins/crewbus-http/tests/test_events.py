"""The events of a run, while connections are cut, processes die, servers stop, and clients are slow."""

from __future__ import annotations

import json
import socket
import sys
import threading
from contextlib import suppress

import httpx
import pytest
from http_helpers import PATIENCE, Served, client, followed, messages, processes, recording_bus, served, text_of

from crewbus_http import app
from crewbus_http.feeds import BATCH, WINDOW

SSE = {"accept": "text/event-stream"}


@pytest.fixture
def bus(tmp_path):
    with recording_bus(tmp_path) as made:
        yield made


def write(run):
    """A run with a nested one, and attempts that fail after they have streamed."""
    run.chunk("Tides ")
    for number in (1, 2, 3):
        with suppress(ValueError), run.attempt(number):
            run.chunk(f"[{number}] follow ")
            if number < 3:
                raise ValueError("again")
    with run.bus.run("librarian"):
        run.bus.chunk("the ")
    run.chunk("moon.")


TEXT = "Tides [3] follow the moon."


def one_by_one(http, run_id):
    """The events of a run, each over a connection of its own, which is cut behind it."""
    after = "start"
    while True:
        with http.stream("GET", f"/runs/{run_id}/events", headers={**SSE, "last-event-id": after}) as response:
            name, after, data = next(messages(response.iter_lines()))
        yield data
        if name.startswith("Run"):
            return


def polled(http, run_id, wait=10.0):
    """The events of a run, as a client gets them that polls."""
    after, ended = "start", False
    while not ended:
        query = {"after": after, "wait": wait}
        told = http.get(f"/runs/{run_id}/events", params=query, headers={"accept": "application/json"}).json()
        yield from told["events"]
        after, ended = told["cursor"], told["ended"]


def test_a_connection_that_is_cut_behind_each_event_loses_nothing_and_repeats_nothing(bus):
    with bus.run(id="r") as run:
        write(run)
    with served(bus) as server, client(server.url) as http:
        whole = followed(http, "r")
        assert list(one_by_one(http, "r")) == whole
        assert text_of(whole) == TEXT
        assert [event["name"] for event in whole].count("crewbus.Retracted") == 2


def test_a_live_run_is_followed_over_connections_that_are_cut(bus):
    with served(bus) as server, client(server.url) as http:
        begun = threading.Event()

        def agent():
            with bus.run(id="r") as run:
                begun.set()
                for _ in range(8):
                    write(run)

        agent_thread = bus.submit(agent)
        assert begun.wait(PATIENCE)
        events = list(one_by_one(http, "r"))
        agent_thread.result(PATIENCE)
        assert text_of(events) == 8 * TEXT
        assert events == followed(http, "r")


def test_lines_of_json_and_polling_have_the_same_events(bus):
    with bus.run(id="r") as run:
        write(run)
    with served(bus) as server, client(server.url) as http:
        whole = followed(http, "r")
        answer = http.get("/runs/r/events", headers={"accept": "application/x-ndjson"})
        lines = [json.loads(line) for line in answer.text.splitlines()]
        cursors = [line.pop("cursor") for line in lines]
        assert lines == whole
        assert len(set(cursors)) == len(cursors)
        found = list(polled(http, "r"))
        assert [one.pop("cursor") for one in found] == cursors
        assert found == whole
        rest = followed(http, "r", after=cursors[2])
        assert rest == whole[3:]
        assert followed(http, "r", after=cursors[-1]) == []


def test_a_poll_waits_for_what_comes_and_no_longer_than_asked(bus):
    with served(bus) as server, client(server.url) as http, bus.run(id="r") as run:
        run.chunk("Tides")
        first = http.get("/runs/r/events?wait=60", headers={"accept": "application/json"}).json()
        assert (text_of(first["events"]), first["ended"]) == ("Tides", False)
        query = {"after": first["cursor"], "wait": 0}
        none = http.get("/runs/r/events", params=query, headers={"accept": "application/json"}).json()
        assert none == {"events": [], "cursor": first["cursor"], "ended": False}


def test_a_silent_stream_says_that_it_is_there(bus):
    with served(bus, heartbeat=0.05) as server, client(server.url) as http, bus.run(id="r"):
        with http.stream("GET", "/runs/r/events", headers=SSE) as response:
            lines = response.iter_lines()
            assert next(lines) == "retry: 1000"
            assert [next(lines) for _ in range(5)] == ["", ":", "", ":", ""]
        with http.stream("GET", "/runs/r/events", headers={"accept": "application/x-ndjson"}) as response:
            assert next(response.iter_lines()) == ""


def test_a_server_that_stops_lets_its_followers_go_and_the_next_one_continues(bus):
    with bus.run(id="r") as run:
        server = Served(app(bus))
        with client(server.url) as http, http.stream("GET", "/runs/r/events", headers=SSE) as response:
            lines = response.iter_lines()
            run.chunk("Tides ")
            _, cursor, first = next(messages(lines))
            server.stop()
            assert list(messages(lines)) == []  # it ends, and has no error
        run.chunk("follow")
        with served(bus, port=server.port) as again, client(again.url) as http:
            with http.stream("GET", "/runs/r/events", headers={**SSE, "last-event-id": cursor}) as response:
                _, _, second = next(messages(response.iter_lines()))
        assert text_of([first, second]) == "Tides follow"


def test_a_follower_sees_one_text_although_the_worker_is_killed_and_another_continues(tmp_path):
    with recording_bus(tmp_path) as bus, processes(tmp_path) as others:
        others.module("agents", """
            import crewbus, os, pathlib, time
            from crewbus_workers import workflow

            @crewbus.step
            def write(part):
                crewbus.chunk(f"part {part} ")
                while part == 1 and not pathlib.Path("go").exists():
                    time.sleep(0.01)
                crewbus.chunk("done. ")
                return part

            @workflow(name="newsroom")
            def newsroom():
                return [write(part) for part in range(3)]
        """)  # fmt: skip
        sys.path.insert(0, str(tmp_path))
        try:
            __import__("agents")
        finally:
            sys.path.remove(str(tmp_path))
            del sys.modules["agents"]
        with served(bus, write=True) as server, client(server.url) as http:
            run_id = http.post("/workflows/newsroom/runs", json={}).json()["run"]
            first = others.worker()
            with http.stream("GET", f"/runs/{run_id}/events", headers=SSE) as response:
                events = []
                for _, _, data in messages(response.iter_lines()):
                    events.append(data)
                    if text_of(events).endswith("part 1 ") and first.poll() is None:
                        first.kill()
                        first.wait(PATIENCE)
                        (tmp_path / "go").touch()
                        others.worker()
            assert text_of(events) == "part 0 done. part 1 done. part 2 done. "
            assert "crewbus.Retracted" in [event["name"] for event in events]
            assert text_of(one_by_one(http, run_id)) == text_of(events)


def test_a_client_that_reads_nothing_holds_up_nobody_and_costs_a_bounded_buffer(bus):
    rounds, words = 60, 50
    with served(bus) as server, client(server.url) as http, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(PATIENCE)
        with bus.run(id="r") as run:
            slow.connect(("127.0.0.1", server.port))
            slow.sendall(b"GET /runs/r/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            received = slow.recv(1)
            with http.stream("GET", "/runs/r/events", headers=SSE) as response:
                events = messages(response.iter_lines())
                for _ in range(rounds):
                    for _ in range(words):
                        run.chunk("x" * 1000)
                    assert len(text_of([next(events)[2] for _ in range(words)])) == 1000 * words
            feeds = server.app.state.runs.feeds
            assert 0 < feeds.size < 4 * (WINDOW + BATCH)
        while part := slow.recv(1 << 20):
            received += part
        assert received.count(b"x" * 1000) == rounds * words


def test_what_is_no_cursor_and_what_nobody_accepts_is_refused(bus):
    with bus.run(id="r") as run:
        run.chunk("Tides")
    with bus.run(id="other") as run:
        run.chunk("Tides")
    with served(bus) as server, client(server.url) as http:
        cursor = http.get("/runs/other/events", headers={"accept": "application/json"}).json()["cursor"]
        for bad in (cursor, "x", "1.1.000000000000", "9" * 30):
            answer = http.get("/runs/r/events", headers={**SSE, "last-event-id": bad})
            assert (answer.status_code, answer.json()["parameter"]) == (409, "after")
        assert http.get("/runs/r/events", headers={"accept": "image/png"}).status_code == 406
        assert http.get("/runs/r/events", headers={"accept": "text/event-stream;q=0, */*;q=x"}).status_code == 406
        kinds = {
            httpx.get(f"{server.url}/runs/r/events", headers={"accept": accept}).headers["content-type"]
            for accept in ("*/*", "text/html, text/*;q=0.5", "application/json;q=0.1, text/event-stream;q=0.9")
        }
        assert kinds == {"text/event-stream; charset=utf-8"}


def test_a_run_that_is_pruned_while_it_is_followed_ends_the_stream(bus):
    with served(bus) as server, client(server.url) as http:
        assert http.get("/runs/none/events", headers=SSE).status_code == 404
        with bus.run(id="r") as run:
            run.chunk("Tides")
        assert text_of(followed(http, "r")) == "Tides"
        bus.records.prune(keep=0)
        assert http.get("/runs/r/events", headers=SSE).status_code == 404
