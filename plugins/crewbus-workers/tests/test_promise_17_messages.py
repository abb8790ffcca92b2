"""Promise 17: a message is received once, in order, whatever happens to the process; a timer lasts until its time."""

from __future__ import annotations

import threading

import pytest
from workers_helpers import PATIENCE

import crewbus
from crewbus import InputError, RunError, RunNotFoundError
from crewbus_workers import (
    MessageTimeoutError,
    areceive,
    asleep,
    enqueue,
    receive,
    send,
    sleep,
    waiting,
    worker,
    workflow,
)


@pytest.fixture
def no_patience(monkeypatch):
    """A wait suspends the run at once."""
    monkeypatch.setattr(waiting, "HELD", 0.0)


def test_promise_17_messages_before_and_after_the_wait_come_in_order(bus):
    asked = threading.Event()

    @workflow(name="work")
    def work() -> list[object]:
        got = [receive("a"), receive("b"), receive("a")]
        asked.set()
        return [*got, receive("a")]

    run_id = enqueue(bus, work)
    for channel, payload in (("a", 1), ("a", {"two": 2}), ("b", "b")):
        send(bus, run_id, channel, payload)
    with worker(bus):
        assert asked.wait(PATIENCE)
        send(bus, run_id, "a", None)
        assert bus.result(run_id, timeout=PATIENCE) == [1, "b", {"two": 2}, None]


def test_promise_17_async_receivers(bus):
    @workflow(name="work")
    async def work() -> list[object]:
        await asleep(0)
        return [await areceive("a"), await areceive("a", timeout=PATIENCE)]

    run_id = enqueue(bus, work)
    with worker(bus):
        send(bus, run_id, "a", 1)
        send(bus, run_id, "a", 2)
        assert bus.result(run_id, timeout=PATIENCE) == [1, 2]


def test_promise_17_a_message_with_a_key_is_sent_once(bus):
    @workflow(name="work")
    def work() -> list[object]:
        return [receive("a"), receive("a")]

    run_id = enqueue(bus, work)
    assert [send(bus, run_id, "a", 1, key="x"), send(bus, run_id, "a", 1, key="x"), send(bus, run_id, "a", 2)] == [
        0,
        0,
        1,
    ]
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == [1, 2]


@pytest.mark.usefixtures("no_patience")
def test_promise_17_a_waiting_run_occupies_no_process(bus):
    suspended = threading.Event()
    bus.on(crewbus.RunSuspended, lambda envelope: suspended.set())

    @crewbus.step
    def once() -> int:
        calls.append(1)
        return len(calls)

    calls = []

    @workflow(name="work")
    def work() -> list[object]:
        return [once(), receive("answer")]

    run_id = enqueue(bus, work)
    with worker(bus) as serving:
        assert suspended.wait(PATIENCE)
        while serving.active:
            pass
        info = bus.records.info(run_id)
        assert (info.state, info.reason) == ("suspended", "waiting for a message on channel 'answer'")
        send(bus, run_id, "answer", "yes")
        assert bus.result(run_id, timeout=PATIENCE) == [1, "yes"]
    assert calls == [1]


@pytest.mark.usefixtures("no_patience")
def test_promise_17_a_message_between_the_look_and_the_suspension_wakes_the_run(bus, monkeypatch):
    @workflow(name="work")
    def work() -> object:
        return receive("answer")

    run_id = enqueue(bus, work)
    looked = []

    def look(run, channel, original=waiting._look):
        found = original(run, channel)
        if not looked:
            looked.append(1)
            send(bus, run_id, "answer", "now")  # after the look, before the run is suspended
        return found

    monkeypatch.setattr(waiting, "_look", look)
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == "now"


@pytest.mark.usefixtures("no_patience")
def test_promise_17_a_timeout_is_an_outcome(bus):
    @workflow(name="work")
    def work() -> str:
        try:
            receive("answer", timeout=0.2)
        except MessageTimeoutError as error:
            return str(error)
        return "a message"

    run_id = enqueue(bus, work)
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == f"run {run_id}: no message came on channel 'answer' in 0.2 s"


@pytest.mark.usefixtures("no_patience")
def test_promise_17_a_timer_survives_the_process_and_ends_once(bus):
    @workflow(name="work")
    def work() -> str:
        sleep(0.3)
        sleep(0.0)
        return "awake"

    run_id = enqueue(bus, work)
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == "awake"
    names = [type(envelope.event).__name__ for envelope in bus.record_of(run_id)]
    assert names.count("RunSuspended") == 1
    assert names.count("StepFinished") == 2


def test_promise_17_a_run_that_no_worker_resumes_waits_where_it_is(bus, monkeypatch):
    monkeypatch.setattr(waiting, "HELD", 0.0)
    with bus.run(id="plain", record=True):
        sleep(0.01)
        send(bus, "plain", "a", 1)
        assert receive("a") == 1
    assert bus.records.info("plain").state == "finished"


def test_promise_17_a_cancelled_run_stops_waiting(bus):
    waits = threading.Event()

    @workflow(name="work")
    def work() -> object:
        waits.set()
        return receive("never")

    run_id = enqueue(bus, work)
    with worker(bus):
        assert waits.wait(PATIENCE)
        bus.cancel(run_id, "enough")
        with pytest.raises(crewbus.RunCancelledError, match="enough"):
            bus.result(run_id, timeout=PATIENCE)


def test_promise_17_what_cannot_be_sent_or_received_is_refused(bus):
    with pytest.raises(RunNotFoundError):
        send(bus, "nobody", "a", 1)
    run_id = enqueue(bus, "work")
    for channel in ("", "crewbus.cancel", 7):
        with pytest.raises(InputError):
            send(bus, run_id, channel, 1)
    with pytest.raises(crewbus.UnserializableError, match="the message on channel 'a'"):
        send(bus, run_id, "a", object())
    with pytest.raises(RunError):
        receive("a")
    for seconds in (-1, float("inf"), "1", True):
        with pytest.raises(InputError):
            sleep(seconds)


def test_promise_17_outside_a_recorded_run_a_timer_just_waits(bus):
    sleep(0)
    with bus.run(record=False):
        sleep(0)


def test_promise_17_a_message_that_a_failed_attempt_consumed_is_not_consumed_again(bus):
    """Although the attempt is retracted: what it did with the message may have been seen."""
    with bus.run("reader", id="reader") as run:
        bus.flush()
        for text in ("first", "second"):
            send(bus, "reader", "mail", text)
        with pytest.raises(ConnectionError), run.attempt():
            assert receive("mail", timeout=PATIENCE) == "first"
            raise ConnectionError
        assert receive("mail", timeout=PATIENCE) == "second"
        with pytest.raises(MessageTimeoutError):
            receive("mail", timeout=0)
