"""The page as a client without a browser sees it: what is answered, in which form, and what is refused."""

import contextlib
import re
from html import unescape
from urllib.parse import quote

import pytest
from http_helpers import Served, client, recording_bus, served
from starlette.applications import Starlette
from starlette.routing import Mount

import crewbus
from crewbus_http import app
from crewbus_workers import enqueue, receive, worker, workflow

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202etxt.exe\x1b[31m"


@crewbus.step
def research(topic):
    return f"about {topic}"


def newsroom(topic):
    return [research(topic)]


@pytest.fixture
def bus():
    with recording_bus() as made:
        yield made


@pytest.fixture
def page(bus):
    with served(bus, write=True) as server, client(server.url) as made:
        yield made


def filled(bus):
    with bus.run("newsroom", id="one", tags={"tenant": "7"}):
        research("tides")
    with contextlib.suppress(TimeoutError), bus.run("newsroom", id="two"):
        research("moons")
        with bus.call("archive"):
            raise TimeoutError("no answer")


def token_of(page, path="/ui/runs"):
    page.get(path)
    return page.cookies["crewbus_csrf"]


PAGES = [
    "/ui/runs", "/ui/runs?state=failed", "/ui/runs/one", "/ui/runs/one?at=1", "/ui/runs/two",
    "/ui/events/one", "/ui/events/one?from=2", "/ui/rows/one/1", "/ui/compare", "/ui/compare?one=one&other=two",
    "/ui/compare?one=one&other=one", "/ui/fleet", "/ui/store", "/ui/store?keep=1",
]  # fmt: skip


def test_each_page_is_html_and_json_and_keeps_to_itself(bus, page):
    filled(bus)
    for path in PAGES:
        answer = page.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), path
        assert "script-src 'self'; style-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        inline = r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=|javascript:|https?://"
        assert not re.search(inline, answer.text), path
        way, _, query = path.partition("?")
        as_json = page.get(path, headers={"accept": "application/json"})
        assert as_json.headers["content-type"] == "application/json"
        assert as_json.json() == page.get(f"{way}.json?{query}").json(), path


def test_the_page_leads_to_the_list_wherever_it_is_mounted(bus):
    inner = app(bus)
    outer = Starlette(routes=[Mount("/agents", inner)])
    outer.state.runs = inner.state.runs
    server = Served(outer)
    try:
        with client(server.url, follow_redirects=True) as page:
            answer = page.get("/agents/ui")
            assert (answer.status_code, answer.url.path) == (200, "/agents/ui/runs")
            assert 'href="/agents/ui/static/page.css"' in answer.text
            assert page.get("/agents/ui/static/page.css").status_code == 200
    finally:
        server.stop()


def test_why_a_run_failed_is_said_first(bus, page):
    filled(bus)
    shown = re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", "", page.get("/ui/runs/two").text)))
    assert "Failed in newsroom \u203a archive event 3 TimeoutError: no answer" in shown
    assert page.get("/ui/runs/two.json").json()["failed_in"] == ["newsroom", "archive"]


def test_hostile_text_is_shown_as_text(bus, page):
    with bus.run(HOSTILE, id=f"hostile {HOSTILE[:29]}", tags={HOSTILE: HOSTILE}) as run, bus.call(HOSTILE):
        research(HOSTILE)
        bus.chunk(HOSTILE)
        run.checkpoint(HOSTILE)
    name = quote(run.id, safe="")
    for path in (
        "runs",
        f"runs/{name}",
        f"events/{name}",
        f"rows/{name}/2",
        f"rows/{name}/1",
        f"compare?one={name}&other={name}",
    ):
        answer = page.get(f"/ui/{path}")
        assert answer.status_code == 200, path
        assert "<script>" not in answer.text
        assert "<img src=x" not in answer.text
        assert not set("\u202e\x1b") & set(answer.text), path
    assert "⟨U+202E⟩txt.exe" in page.get(f"/ui/rows/{name}/1").text
    text = page.get(f"/ui/text/{name}/1")
    assert (text.text, text.headers["content-type"]) == (HOSTILE, "text/plain; charset=utf-8")
    assert text.headers["x-content-type-options"] == "nosniff"


def test_ten_megabytes_of_text_cost_a_page_little(bus, page):
    with bus.run(id="big"), bus.call("model"):
        for _ in range(10):
            bus.chunk("x" * 1_000_000)
    for path in ("/ui/runs/big", "/ui/events/big", "/ui/rows/big/1"):
        assert len(page.get(path).content) < 100_000
    assert len(page.get("/ui/text/big/1").content) == 10_000_000


def test_a_past_moment_has_its_own_url(bus, page):
    filled(bus)
    assert page.get("/ui/runs/two.json?at=2").json()["state"] == "open"
    assert [row["state"] for row in page.get("/ui/runs/two.json?at=2").json()["rows"]] == ["open", "finished"]
    assert page.get("/ui/runs/two.json?at=999").json()["state"] == "failed"


def test_a_nested_run_leads_to_its_root(bus, page):
    with bus.run(id="outer"), bus.run(id="inner"):
        pass
    assert page.get("/ui/runs/inner").headers["location"] == "/ui/runs/outer"


WRONG = {
    "runs/gone": 404, "runs?state=odd": 422, "runs?after=gone": 404, "rows/one/999": 404, "runs/one?at=x": 422,
    "store?keep=many": 422, "compare?one=one&other=gone": 404, "live/runs/gone": 404,
}  # fmt: skip


def test_what_cant_be_shown_is_a_page_for_people_and_a_problem_for_programs(bus, page):
    filled(bus)
    for path, status in WRONG.items():
        answer = page.get(f"/ui/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), path
        problem = page.get(f"/ui/{path}", headers={"accept": "application/json"})
        assert (problem.json()["status"], problem.headers["content-type"]) == (status, "application/problem+json")


# Changes


def test_a_step_is_edited_and_a_worker_takes_the_fork_up(bus, page):
    known = workflow(name="page-newsroom")(newsroom)
    run_id = enqueue(bus, known, "tides")
    with worker(bus):
        assert bus.result(run_id, timeout=60) == ["about tides"]
        step = next(row for row in page.get(f"/ui/runs/{run_id}.json").json()["rows"] if row["kind"] == "step")
        shown = page.get(f"/ui/rows/{run_id}/{step['seq']}").text
        fields = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', shown))
        form = {"step": unescape(fields["step"]), "csrf_token": fields["csrf_token"], "result": '"about moons"'}
        answer = page.post(f"/ui/fork/{run_id}", data=form)
        assert answer.status_code == 303
        fork_id = answer.headers["location"].rpartition("/")[2]
        assert bus.result(fork_id, timeout=60) == ["about moons"]
    assert "compare" in page.get(f"/ui/runs/{fork_id}").text


def test_runs_are_cancelled_requeued_and_pruned_from_the_page(bus, page):
    run_id = enqueue(bus, workflow(name="page-newsroom")(newsroom), "tides", delay=3600)
    data = {"csrf_token": token_of(page)}
    assert page.post(f"/ui/cancel/{run_id}", data=data).status_code == 303
    assert bus.records.info(run_id).state == "cancelled"
    assert page.post(f"/ui/requeue/{run_id}", data=data).status_code == 303
    assert bus.records.info(run_id).state == "suspended"
    filled(bus)
    assert page.post("/ui/prune", data={**data, "keep": "1"}).status_code == 303
    assert [info.id for info in bus.records.list()] == ["two"]


def test_a_form_without_the_token_of_the_page_changes_nothing(bus, page):
    filled(bus)
    for _ in range(2):  # also once the browser has the cookie
        for data in ({}, {"csrf_token": "guessed"}, {"csrf_token": ""}):
            assert page.post("/ui/fork/one", data={"step": "research", **data}).status_code == 403
        token_of(page)
    assert len(bus.records.list()) == 2


def test_the_token_is_out_of_reach_of_scripts_and_other_sites(page):
    cookie = page.get("/ui/runs").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "set-cookie" not in page.get("/ui/runs").headers  # one that it knows is kept


def test_a_message_is_sent_from_the_page(bus, page):
    def asking():
        return receive("approval", timeout=3600)

    run_id = enqueue(bus, workflow(name="page-asking")(asking))
    assert 'name="channel"' in page.get(f"/ui/runs/{run_id}").text
    data = {"csrf_token": token_of(page), "channel": "approval", "payload": '{"ok": true}'}
    assert page.post(f"/ui/send/{run_id}", data=data | {"payload": "not JSON"}).status_code == 422
    assert page.post(f"/ui/send/{run_id}", data=data).status_code == 303
    with worker(bus):
        assert bus.result(run_id, timeout=60) == {"ok": True}


def test_a_form_of_another_site_changes_nothing(bus, page):
    filled(bus)
    data = {"csrf_token": token_of(page)}
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert page.post("/ui/fork/one", data=data, headers=headers).status_code == 403
    assert len(bus.records.list()) == 2


def test_without_write_there_are_no_forms_and_nothing_is_changed(bus):
    filled(bus)
    with served(bus) as server, client(server.url) as page:
        for path in PAGES:
            assert 'method="post"' not in page.get(path).text
        data = {"csrf_token": token_of(page)}
        for path in ("fork/one", "cancel/one", "requeue/one", "send/one", "prune"):
            assert page.post(f"/ui/{path}", data=data).status_code == 403
    assert len(bus.records.list()) == 2


def test_who_may_not_read_a_run_does_not_see_it(bus):
    filled(bus)

    def authorize(request, action, run):
        return run is None or run.id == "one"

    with served(bus, authorize, reveal=True, write=True) as server, client(server.url) as page:
        assert [run["id"] for run in page.get("/ui/runs.json").json()["runs"]] == ["one"]
        for path in (
            "runs/two",
            "events/two",
            "rows/two/1",
            "text/two/1",
            "live/runs/two",
            "compare?one=one&other=two",
        ):
            assert page.get(f"/ui/{path}").status_code == 404
        assert page.post("/ui/prune", data={"csrf_token": token_of(page), "keep": "0"}).status_code == 403
    assert len(bus.records.list()) == 2


def test_a_server_that_reveals_nothing_has_no_page(bus):
    with served(bus, lambda *_: True) as server, client(server.url) as page:
        assert page.get("/ui/runs").status_code == 404


# Live


def parts(lines, count):
    """The next messages of a live page: event, data."""
    found, event, data = [], "", []
    for line in lines:
        if line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: "):
            data.append(line[6:])
        elif not line and event:
            found.append((event, "\n".join(data)))
            event, data = "", []
            if len(found) == count:
                return found
    return found


def test_a_live_run_sends_text_as_it_streams_then_its_end(bus, page):
    with bus.run("newsroom", id="live"):
        with page.stream("GET", "/ui/live/runs/live") as answer:
            lines = answer.iter_lines()
            assert [event for event, _ in parts(lines, 4)] == ["summary", "actions", "lines", "status"]
            with bus.call("model"):
                bus.chunk("Tides <b>")
                seen = dict(parts(lines, 3))
                assert "Tides &lt;b&gt;" in seen["panel"]
                bus.chunk(" rise")
                event, data = parts(lines, 3)[-1]
                assert (event, data) == ("more", '<span class="t-text"> rise</span>')
        # a browser that comes back gets what is so now
        with page.stream("GET", "/ui/live/runs/live", headers={"last-event-id": "2"}) as answer:
            again = dict(parts(answer.iter_lines(), 5))
            assert "Tides &lt;b&gt; rise" in re.sub("</?span[^>]*>", "", again["panel"])
    with page.stream("GET", "/ui/live/runs/live") as answer:
        *_, (last, _) = parts(answer.iter_lines(), 99)
        assert last == "end"


def test_the_live_list_is_sent_anew_when_a_run_starts(bus, page):
    with page.stream("GET", "/ui/live/runs") as answer:
        lines = answer.iter_lines()
        [(_, empty)] = parts(lines, 1)
        assert "No runs yet" in empty
        with bus.run("newsroom", id="fresh"):
            [(_, rows)] = parts(lines, 1)
            assert "fresh" in rows


def test_a_server_that_stops_lets_the_live_pages_go(bus):
    with bus.run("newsroom", id="live"):
        with served(bus) as server, client(server.url) as page:
            with page.stream("GET", "/ui/live/runs/live") as answer:
                lines = answer.iter_lines()
                assert len(parts(lines, 4)) == 4
                server.server.should_exit = True
                assert "end" not in [event for event, _ in parts(lines, 99)]
