"""Who may do what, and what hostile requests get: a problem that tells nothing of the server."""

from __future__ import annotations

import json
import socket

import pytest
from http_helpers import PATIENCE, client, processes, recording_bus, served

import crewbus
from crewbus_http.authorize import ACTIONS, is_loopback
from crewbus_workers import enqueue, workflow

REQUESTS = {
    "list": ("GET", "/runs", None),
    "read": ("GET", "/runs/r", None),
    "start": ("POST", "/workflows/newsroom/runs", {}),
    "cancel": ("POST", "/runs/r/cancel", {}),
    "send": ("POST", "/runs/r/messages", {"channel": "c"}),
    "fork": ("POST", "/runs/r/forks", {}),
}
"""By action: a request that takes it."""


@pytest.fixture
def bus(tmp_path):
    @workflow(name="newsroom")
    def newsroom() -> None:
        """Do nothing."""

    with recording_bus(tmp_path) as made:
        enqueue(made, newsroom, id="r", tags={"tenant": "7"})
        yield made


def ask(http, action):
    method, path, body = REQUESTS[action]
    return http.request(method, path, json=body)


def test_each_action_has_a_request():
    assert tuple(REQUESTS) == ACTIONS


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_that_is_not_allowed_is_refused_and_the_others_are_not(bus, action, is_async):
    asked = []

    def decide(request, wanted, run):
        asked.append((request.method, wanted, run.id if run is not None else None))
        return wanted != action

    async def decide_later(*what):
        return decide(*what)

    with served(bus, decide_later if is_async else decide, write=True) as server, client(server.url) as http:
        refused = ask(http, action)
        assert refused.status_code == (404 if action == "read" else 403)
        assert refused.headers["content-type"] == "application/problem+json"
        method, path, _ = REQUESTS[action]
        assert asked[0] == (method, action, "r" if "/r" in path.removesuffix("/runs").removeprefix("/runs") else None)
        for other in ("list", "start", "send", "read", "fork", "cancel"):
            if other != action:
                assert ask(http, other).status_code < 300, other


def test_a_run_that_a_client_may_not_read_is_neither_listed_nor_found(bus):
    enqueue(bus, "newsroom", id="s", tags={"tenant": "8"})

    def authorize(request, action, run):
        return run is None or run.tags["tenant"] == request.headers["tenant"]

    with served(bus, authorize, write=True) as server, client(server.url) as http:
        for tenant, own, other in (("7", "r", "s"), ("8", "s", "r")):
            http.headers["tenant"] = tenant
            assert [one["id"] for one in http.get("/runs?limit=1").json()["runs"]] == [own]
            assert http.get(f"/runs/{own}").status_code == 200
            missing = http.get("/runs/none")
            for path in ("", "/tree", "/result", "/events"):
                answer = http.get(f"/runs/{other}{path}")
                assert (answer.status_code, answer.content) == (404, missing.content)
            for path in ("cancel", "messages", "forks"):
                assert http.post(f"/runs/{other}/{path}", json={"channel": "c"}).status_code == 404
            taken = http.post("/workflows/newsroom/runs", json={"id": other})
            assert (taken.status_code, taken.content) == (404, missing.content)


def test_nothing_is_changed_unless_that_is_asked_for(bus):
    with served(bus) as server, client(server.url) as http:
        for action in ("start", "cancel", "send", "fork"):
            answer = ask(http, action)
            assert (answer.status_code, answer.json()["type"]) == (403, "urn:crewbus:read-only")
        assert bus.records.info("r").state == "queued"
        assert len(bus.records.list()) == 1


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "192.0.2.1", "localhost.evil.example", "[::2]", ""]
)
def test_a_name_that_leads_here_is_not_answered_unless_someone_decides(bus, host):
    with served(bus) as server, client(server.url) as http:
        assert http.get("/runs", headers={"host": host}).status_code == 421
        for own in ("localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]:80"):
            assert http.get("/runs", headers={"host": own}).status_code == 200
    with served(bus, lambda *_: True) as server, client(server.url) as http:
        assert http.get("/runs", headers={"host": host}).status_code == 200


def test_a_page_of_another_site_changes_nothing_and_reads_nothing(bus):
    with served(bus, write=True) as server, client(server.url) as http:
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ):
            assert http.post("/runs/r/cancel", json={}, headers=headers).status_code == 403
        plain = http.post("/runs/r/cancel", content="{}", headers={"content-type": "text/plain"})
        assert plain.status_code == 415
        assert bus.records.info("r").state == "queued"
        read = http.get("/runs", headers={"origin": "https://evil.example"})
        assert not [name for name in read.headers if name.startswith("access-control-")]
        assert http.options("/runs", headers={"origin": "https://evil.example"}).status_code == 405
        same = http.post("/runs/r/cancel", json={}, headers={"origin": server.url, "sec-fetch-site": "same-origin"})
        assert same.status_code == 202


HOSTILE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"NaN",
    b'{"id": NaN}',
    b"\xff\xfe",
    b'{"id": "\\ud800"}',
    b'{"id": "a\\u0000b"}',
    b'{"id": 7}',
    b'{"id": ""}',
    b'{"id": "%b"}' % (b"x" * 5000),
    b'{"arguments": []}',
    b'{"arguments": {"no_such": 1}}',
    b'{"arguments": {"\\ud800": 1}}',
    b'{"delay": -1}',
    b'{"delay": true}',
    b'{"delay": 1e999}',
    b'{"version": 0}',
    b'{"version": 1.5}',
    b'{"version": 99}',
    b'{"tags": {"a": 1}}',
    b'{"tags": {"a": "\\ud800"}}',
    b'{"unknown": 1}',
    b"[" * 100_000,
    b'{"arguments":' * 10_000 + b"1" + b"}" * 10_000,
]


def test_hostile_bodies_are_problems_without_internals(bus, tmp_path):
    with served(bus, write=True) as server, client(server.url) as http:
        for body in HOSTILE:
            for path in ("/workflows/newsroom/runs", "/runs/r/messages", "/runs/r/forks", "/runs/r/cancel"):
                answer = http.post(path, content=body, headers={"content-type": "application/json"})
                if body == b'{"version": 99}' and path.startswith("/workflows"):
                    assert answer.status_code == 202  # a worker may know it
                    continue
                assert 400 <= answer.status_code < 500, (path, body[:50], answer.text)
                assert_tells_nothing(answer, tmp_path)
        assert bus.records.info("r").state == "queued"


def assert_tells_nothing(answer, folder):
    """A problem, with nothing of the server in it."""
    told = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert told["status"] == answer.status_code
    assert {"type", "title"} <= told.keys()
    for internal in (str(folder), "Error", "Traceback", ".py", "sqlite", "crewbus_"):
        assert internal not in answer.text, answer.text


def test_hostile_addresses_are_problems_without_internals(bus, tmp_path):
    ids = [
        "%00",
        "%ff",
        "..%2f..%2fetc%2fpasswd",
        "x" * 2000,
        "%ed%a0%80",
        "none%2Fevents",
        "'; DROP TABLE runs; --",
        "%0d%0aX: y",
    ]
    with served(bus) as server, client(server.url) as http:
        for run_id in ids:
            for path in ("", "/tree", "/result", "/events"):
                answer = http.get(f"/runs/{run_id}{path}")
                assert answer.status_code in (404, 422), (run_id, path, answer.text)
                assert_tells_nothing(answer, tmp_path)
        for query in (
            "limit=0",
            "limit=x",
            "limit=1001",
            "limit=%D9%A1",
            "state=x",
            "tag=x",
            "tag==x",
            "since=nan",
            "name=",
            "since=-1",
        ):
            answer = http.get(f"/runs?{query}")
            assert (answer.status_code, answer.json()["parameter"]) == (422, query.partition("=")[0])
            assert_tells_nothing(answer, tmp_path)
        for path in ("/", "/nowhere", "/runs/", "/openapi.json/x"):
            assert_tells_nothing(http.get(path), tmp_path)
        assert_tells_nothing(http.delete("/runs/r"), tmp_path)
        assert http.get("/runs?name=" + "x" * 9000).status_code == 414
        assert http.get("/runs", headers={"x": "x" * 40_000}).status_code == 431


def test_a_body_that_is_too_large_is_refused_before_it_is_read(bus):
    with served(bus, write=True, max_body=1000) as server, client(server.url) as http:
        large = json.dumps({"payload": "x" * 1000, "channel": "c"})
        answer = http.post("/runs/r/messages", content=large, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["max_bytes"]) == (413, 1000)
        parts = iter([large.encode()])  # without a length
        answer = http.post("/runs/r/messages", content=parts, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as raw:
            raw.sendall(
                b"POST /runs/r/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n"
            )
            assert b" 4" in raw.recv(100).splitlines()[0]


def test_what_fails_in_the_server_is_a_problem_without_internals(bus, tmp_path, caplog):
    def authorize(request, action, run):
        raise ZeroDivisionError(f"at {tmp_path}, sqlite")

    with served(bus, authorize) as server, client(server.url) as http:
        answer = http.get("/runs")
        assert answer.status_code == 500
        assert_tells_nothing(answer, tmp_path)
    assert "ZeroDivisionError" in caplog.text


def test_what_a_run_said_when_it_failed_is_told_only_where_nobody_decides(bus):
    with pytest.raises(ValueError, match="secret"), bus.run(id="f") as run:
        with pytest.raises(KeyError), run.attempt(1):
            run.chunk("x")
            raise KeyError("secret")
        raise ValueError("secret")
    paths = ["/runs", "/runs/f", "/runs/f/tree", "/runs/f/result", "/runs/f/events"]
    with served(bus) as server, client(server.url) as http:
        assert all("secret" in http.get(path).text for path in paths)
    with served(bus, lambda *_: True) as server, client(server.url) as http:
        for path in paths:
            answer = http.get(path)
            assert answer.status_code == 200
            assert "secret" not in answer.text, path
            assert "holder" not in answer.text or '"holder":null' in answer.text
        assert http.get("/runs/f").json()["error"] == "builtins.ValueError"
    with served(bus, lambda *_: True, reveal=True) as server, client(server.url) as http:
        assert all("secret" in http.get(path).text for path in paths)


def test_loopback_names():
    assert all(map(is_loopback, ("localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "example.org", "127.0.0.1.example.org", "10.0.0.1")))


def test_the_command_listens_elsewhere_only_if_someone_decides(tmp_path):
    with processes(tmp_path) as others:
        others.module("agents", """
            from crewbus_workers import workflow

            @workflow(name="newsroom")
            def newsroom():
                return "x"

            def authorize(request, action, run):
                return action == "list"
        """)  # fmt: skip
        plugins = ("crewbus_workers.plugin", "crewbus_http.plugin")
        refused = others.start("serve", "agents", "--host", "0.0.0.0", plugins=plugins)
        _, said = refused.communicate(timeout=PATIENCE)
        assert refused.returncode == 2
        assert "--authorize" in said
        open_ = others.start("serve", "agents", "--port", "0", "--write", plugins=plugins)
        decided = others.start(
            "serve", "agents", "--host", "0.0.0.0", "--port", "0", "--authorize", "agents:authorize", plugins=plugins
        )
        line = others.begun(open_, "serving on ")
        assert "this computer alone" in line
        with client(line.split()[2].strip(",")) as http:
            assert http.post("/workflows/newsroom/runs", json={"id": "n"}).status_code == 202
        port = others.begun(decided, "serving on ").split()[2].strip(",").rpartition(":")[2]
        with client(f"http://127.0.0.1:{port}") as http:
            assert http.get("/runs").json() == {"runs": []}
            assert http.get("/runs/n").status_code == 404
        for process in (open_, decided):
            process.terminate()
            _, said = process.communicate(timeout=PATIENCE)
            assert (process.returncode, said) == (0, "stopped\n")


def test_the_workflows_of_the_bus_are_not_those_of_others(bus):
    with served(bus, write=True) as server, client(server.url) as http:
        assert http.post("/workflows/os.system/runs", json={"arguments": {"command": "true"}}).status_code == 404
        assert http.post("/workflows/newsroom@2/runs", json={}).status_code == 404
        with bus.run(id="plain"):
            pass
        taken = http.post("/workflows/newsroom/runs", json={"id": "plain"})
        assert (taken.status_code, taken.json()["type"]) == (409, "urn:crewbus:conflict")


def test_a_nested_run_is_followed_and_its_root_is_named_for_the_rest(bus):
    with bus.run(id="root"), bus.run(id="nested"):
        crewbus.chunk("x")
    with served(bus, write=True) as server, client(server.url) as http:
        for answer in (http.get("/runs/nested"), http.post("/runs/nested/cancel", json={})):
            assert (answer.status_code, answer.json()["root"]) == (409, "root")
        assert http.get("/runs/nested/tree").json()["id"] == "nested"
        assert http.get("/runs/nested/result").json()["state"] == "finished"
        assert http.get("/runs/nested/events").text.count("event: ") == 2
