"""The API: runs are started, listed, shown, cancelled, sent messages and forked."""

from __future__ import annotations

import pytest
from http_helpers import client, followed, recording_bus, served, text_of

import crewbus
from crewbus_workers import receive, worker, workflow


@pytest.fixture
def bus(tmp_path):
    with recording_bus(tmp_path) as made:
        yield made


@pytest.fixture
def newsroom():
    @crewbus.step
    def draft(topic):
        crewbus.chunk(f"About {topic}. ")
        return f"About {topic}."

    @workflow(name="newsroom", version=2)
    def newsroom(topic: str) -> str:
        text = draft(topic)
        return text if receive("approval", timeout=600) else "(withdrawn)"

    return newsroom


def test_a_run_is_started_followed_answered_and_its_result_is_there(bus, newsroom):
    with served(bus, write=True) as server, client(server.url) as http:
        assert http.get("/workflows").json() == {"workflows": [{"name": "newsroom", "version": 2}]}
        for _ in range(2):
            answer = http.post("/workflows/newsroom/runs", json={"arguments": {"topic": "tides"}, "id": "a/7"})
            assert (answer.status_code, answer.json()) == (202, {"run": "a/7"})
            assert http.get(answer.headers["location"]).json()["id"] == "a/7"
        assert http.get("/runs/a/7/result").json()["state"] == "unfinished"
        with worker(bus):
            sent = [
                http.post("/runs/a/7/messages", json={"channel": "approval", "payload": True, "key": "k"}) for _ in "ab"
            ]
            assert [one.json()["message"] for one in sent] == [0, 0]
            told = http.get("/runs/a/7/result", params={"wait": 60}).json()
        assert (told["state"], told["result"]) == ("finished", "About tides.")
        assert text_of(followed(http, "a/7")) == "About tides. "
        assert [one["id"] for one in http.get("/runs", params={"state": "finished"}).json()["runs"]] == ["a/7"]
        assert http.get("/runs", params={"state": "failed"}).json() == {"runs": []}
        tree = http.get("/runs/a/7/tree").json()["tree"]
        assert next(one["name"] for one in tree if one["kind"] == "step").endswith("draft")


def test_a_fork_with_another_result_is_continued_by_a_worker(bus, newsroom):
    with served(bus, write=True) as server, client(server.url) as http, worker(bus):
        run_id = http.post("/workflows/newsroom/runs", json={"arguments": {"topic": "tides"}}).json()["run"]
        http.post(f"/runs/{run_id}/messages", json={"channel": "approval", "payload": True})
        assert http.get(f"/runs/{run_id}/result?wait=60").json()["state"] == "finished"
        (name,) = [
            one["name"] for one in http.get(f"/runs/{run_id}/tree").json()["tree"] if one["name"].endswith("draft")
        ]
        forked = http.post(f"/runs/{run_id}/forks", json={"edits": {name: "About stars."}})
        assert forked.status_code == 201
        fork_id = forked.json()["run"]
        http.post(f"/runs/{fork_id}/messages", json={"channel": "approval", "payload": True})
        assert http.get(f"/runs/{fork_id}/result?wait=60").json()["result"] == "About stars."


def test_a_run_that_nobody_has_begun_is_cancelled(bus, newsroom):
    with served(bus, write=True) as server, client(server.url) as http:
        run_id = http.post("/workflows/newsroom/runs", json={"arguments": {"topic": "tides"}}).json()["run"]
        assert http.post(f"/runs/{run_id}/cancel", json={"reason": "the customer left"}).json()["was"] == "queued"
        told = http.get(f"/runs/{run_id}").json()
        assert (told["state"], told["reason"]) == ("cancelled", "the customer left")
