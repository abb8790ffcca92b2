"""Promise 8: a running run is entered once more where its own context does not reach."""

from __future__ import annotations

import asyncio
import contextvars
import warnings

import pytest
from helpers import TIMEOUT, Noted, in_thread, quiet_bus

import crewbus
from crewbus import RunError


@pytest.fixture
def bus():
    with quiet_bus() as bus:
        yield bus


def elsewhere(function, *args):
    """In a context that knows of no run."""
    return contextvars.Context().run(function, *args)


@crewbus.step
def double(number: int) -> int:
    return 2 * number


def work(bus, run):
    with run.scope():
        crewbus.chunk("hello ")
        assert crewbus.current_run() is run
        assert bus.emit(Noted("x")).run_id == run.id
        with crewbus.call("model") as call:
            crewbus.chunk("from a call ")
        assert call.run is run
        with bus.run("nested") as nested:
            pass
        assert nested.parent is run
        with run.attempt() as attempt:
            assert attempt.of is run
            run.chunk("tried ")
        assert double(2) == 4
    assert crewbus.current_run() is None
    assert run.state == "running"


async def work_async(bus, run):
    async with run.scope():
        work_inside = asyncio.create_task(asyncio.to_thread(crewbus.chunk, "hello "))
        await work_inside
        assert crewbus.current_run() is run
    assert crewbus.current_run() is None


@pytest.mark.parametrize("record", [False, True])
def test_promise_08_what_happens_in_a_run_that_is_entered_elsewhere_belongs_to_it(bus, record):
    with bus.run(record=record) as run:
        stream = bus.subscribe(run.id)
        elsewhere(work, bus, run)
        in_thread(work, bus, run).result(TIMEOUT)
    assert stream.text() == "hello from a call tried " * 2
    assert run.state == "finished"


def test_promise_08_async_code_enters_a_run_elsewhere(bus):
    with bus.run() as run:
        stream = bus.subscribe(run.id)
        in_thread(lambda: asyncio.run(work_async(bus, run))).result(TIMEOUT)
    assert stream.text() == "hello "


def test_promise_08_a_resumed_run_is_entered_elsewhere(bus):
    def agent(run, fails):
        def inside():
            with run.scope():
                crewbus.chunk("text ")
                results.append(double(4))

        elsewhere(inside)
        if fails:
            raise LookupError

    results = []
    bus.enable_recording(crewbus.MemoryStore())
    with pytest.raises(LookupError), bus.run(id="r") as run:
        agent(run, fails=True)
    with bus.resume("r") as run:
        agent(run, fails=False)
    assert results == [8, 8]
    events = [envelope.event for envelope in bus.record_of("r")]
    assert sum(isinstance(event, crewbus.StepFinished) for event in events) == 1
    assert sum(isinstance(event, crewbus.Chunk) for event in events) == 1


def test_promise_08_only_a_running_run_is_entered_elsewhere(bus):
    run = bus.run(id="r1")
    with pytest.raises(RunError, match="new; only a running run"), run.scope():
        pass
    with run:
        with pytest.raises(RunError, match=r"enter it once more with run\.scope"), run:
            pass
        entered = run.scope()
        with entered:
            pass
        with pytest.raises(RunError, match=r"call run\.scope\(\) for each"), entered:
            pass
    with pytest.raises(RunError, match="finished; only a running run"), run.scope():
        pass
    with bus.run() as cancelled:
        cancelled.cancel("enough")
        with pytest.raises(crewbus.Cancelled), cancelled.scope():
            pass


def test_promise_08_an_error_leaves_the_run_going(bus):
    with bus.run() as run:
        with pytest.raises(LookupError), run.scope():
            raise LookupError
        assert run.state == "running"


def test_promise_01_what_is_emitted_there_after_the_run_has_ended_reaches_no_stream(bus):
    with bus.run() as outer:
        stream = bus.subscribe(outer.id)
        with bus.run() as run:
            entered = run.scope()
            context = contextvars.copy_context()
            context.run(entered.__enter__)
        with pytest.warns(crewbus.UnscopedWarning, match="has ended"):
            assert context.run(bus.chunk, "late").run_id is None
    assert stream.text() == ""


def test_promise_01_a_scope_that_a_generator_leaves_elsewhere_hides_nothing(bus):
    def agent(run):
        with run.scope():
            yield

    with bus.run() as other, bus.run("caller") as caller:
        generator = agent(other)
        next(generator)
        assert crewbus.current_run() is other
        in_thread(generator.close).result(TIMEOUT)
        assert crewbus.current_run() is caller
        assert bus.emit(Noted("x")).run_id == caller.id


def test_promise_08_a_run_of_a_sync_dependency_is_entered_in_the_endpoint(bus):
    fastapi = pytest.importorskip("fastapi")
    testclient = pytest.importorskip("fastapi.testclient")
    app = fastapi.FastAPI()

    def request_run():
        with bus.run("request", id="r1") as run:
            yield run

    depends = fastapi.Depends(request_run)

    @app.get("/sync")
    def endpoint(run=depends):
        with run.scope():
            crewbus.chunk("hello")

    @app.get("/async")
    async def async_endpoint(run=depends):
        async with run.scope():
            crewbus.chunk("hello")

    for path in ("/sync", "/async"):
        stream = bus.subscribe("r1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with testclient.TestClient(app) as client:
                assert client.get(path).status_code == 200
        assert stream.text() == "hello"
