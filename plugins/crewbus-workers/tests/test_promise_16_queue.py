"""Promise 16: what was queued is executed, by one worker at a time, with the arguments that it was queued with."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import threading

import attrs
import pytest
from workers_helpers import PATIENCE, events_of

import crewbus
from crewbus import InputError, RunIdInUseError, UnserializableError
from crewbus_workers import Limits, enqueue, queues, requeue, worker, workflow


@attrs.define
class Topic:
    name: str
    words: tuple[int, ...]


@attrs.define
class Order:
    number: int


crewbus.register_entity(Order, name="tests.workers.Order")


def test_promise_16_a_queued_run_is_executed_with_its_arguments(bus):
    @workflow(name="sum", version=2)
    def add(one: int, *more: int, topic: Topic, order: object) -> list[int]:
        assert topic == Topic("x", (1, 2))
        assert order == Order(7)
        return [one, *more]

    run_id = enqueue(bus, "sum", 1, 2, 3, topic=Topic("x", (1, 2)), order=Order(7))
    assert bus.records.info(run_id).name == "sum"
    assert bus.records.info(run_id).tags == {"crewbus.workflow": "sum@2", "crewbus.queue": "default"}
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == [1, 2, 3]
    assert events_of(bus, run_id)[:2] == ["RunStarted", "Enqueued"]


def test_promise_16_async_workflows_run_on_the_loop_of_the_worker(bus):
    threads = set()

    @workflow(name="async")
    async def work(number: int) -> int:
        threads.add(threading.get_ident())
        return number

    ids = [enqueue(bus, work, number) for number in range(5)]
    with worker(bus):
        assert [bus.result(run_id, timeout=PATIENCE) for run_id in ids] == [0, 1, 2, 3, 4]
    assert len(threads) == 1


async def serve_once(bus, run_id):
    async with worker(bus):
        return await bus.aresult(run_id, timeout=PATIENCE)


def test_promise_16_a_worker_on_a_running_loop(bus):
    import asyncio

    @workflow(name="async")
    async def work() -> str:
        return "done"

    assert asyncio.run(serve_once(bus, enqueue(bus, work))) == "done"


def test_promise_16_only_registered_workflows_and_versions_are_executed(bus):
    @workflow(name="known")
    def known() -> str:
        return "known"

    other = enqueue(bus, "unknown")
    newer = enqueue(bus, "known", version=2)
    run_id = enqueue(bus, "known")
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == "known"
    assert [bus.store.info(one).epoch for one in (other, newer)] == [0, 0]


def test_promise_16_a_run_that_is_queued_by_name_alone_is_executed_by_the_newest_version(bus):
    run_id = enqueue(bus, "work", 7)
    assert bus.records.info(run_id).tags["crewbus.workflow"] == "work"
    for version in (1, 2):
        workflow(name="work", version=version)(lambda number, version=version: [number, version])
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == [7, 2]


around = contextvars.ContextVar("around", default="nothing")


@pytest.mark.parametrize("form", ["sync", "async"])
def test_promise_16_a_run_begins_in_an_empty_context(bus, form):
    """As in another process: what the program around has set is not there, nor what another run sets."""

    def look():
        seen = around.get(), crewbus.current_run().parent
        around.set("another run")
        return [seen[0], seen[1] is None]

    async def alook():
        return look()

    workflow(name="look")({"sync": look, "async": alook}[form])
    around.set("the program")
    with bus.run("around"), worker(bus, concurrency=1):
        found = [bus.result(enqueue(bus, "look"), timeout=PATIENCE) for _ in range(3)]
    assert found == [["nothing", True]] * 3


def test_promise_16_a_run_with_an_id_is_queued_once(bus):
    first = enqueue(bus, "work", 1, id="order-7")
    with pytest.raises(RunIdInUseError):
        enqueue(bus, "work", 2, id="order-7")
    assert enqueue(bus, "work", 1, id="order-7", attach=True, queue="other") == first == "order-7"
    with pytest.raises(RunIdInUseError, match=r"run order-7 .* for workflow 'work', not 'other'"):
        enqueue(bus, "other", 1, id="order-7", attach=True)
    for args, kwargs in [((2,), {}), ((), {}), ((1,), {"more": 1})]:
        with pytest.raises(RunIdInUseError, match=r"run order-7 .* with other arguments"):
            enqueue(bus, "work", *args, id="order-7", attach=True, **kwargs)
    with pytest.raises(RunIdInUseError, match=r"run order-7 .* with key=None, not 'acme'"):
        enqueue(bus, "work", 1, id="order-7", attach=True, key="acme")
    assert len(bus.recorded_runs()) == 1
    with bus.run("work", id="begun"):
        pass
    with pytest.raises(RunIdInUseError, match="was not queued"):
        enqueue(bus, "work", 1, id="begun", attach=True)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((object(),), {}, UnserializableError, "argument 0 of work@1"),
        ((1,), {"delay": -1}, InputError, "delay="),
        ((1,), {"delay": "1"}, InputError, "delay="),
        ((1,), {"queue": ""}, InputError, "queue="),
        ((1,), {"key": 7}, InputError, "key="),
        ((1, 2), {}, InputError, "too many positional arguments"),
        ((), {}, InputError, "missing a required argument"),
    ],
)
def test_promise_16_what_cannot_be_queued_is_refused_by_name(bus, arguments, options, error, text):
    @workflow(name="work")
    def work(value):
        """Never called."""

    with pytest.raises(error, match=text):
        enqueue(bus, work, *arguments, **options)
    assert bus.recorded_runs() == []


def test_promise_16_names_and_versions_are_checked():
    with pytest.raises(InputError):
        workflow(name="a@b")
    with pytest.raises(InputError):
        workflow(name="a", version=0)
    with pytest.raises(crewbus.TargetError):
        workflow(name="a")(7)
    workflow(name="a")(len)
    with pytest.raises(InputError, match=r"builtins\.len already"):
        workflow(name="a")(max)


def test_promise_16_a_failure_is_recorded_and_can_be_requeued(bus):
    failing = [True]

    @crewbus.step
    def counted() -> int:
        made.append(1)
        return len(made)

    made = []

    @workflow(name="work")
    def work() -> int:
        number = counted()
        if failing.pop():
            failing.append(False)
            raise ValueError("not yet")
        return number

    run_id = enqueue(bus, work)
    with worker(bus), pytest.raises(ValueError, match="not yet"):
        bus.result(run_id, timeout=PATIENCE)
    requeue(bus, run_id)
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == 1
    assert made == [1]


def test_promise_16_what_was_not_queued_is_not_requeued(bus):
    with bus.run("work", id="a", record=True):
        pass
    with pytest.raises(InputError, match="was not queued"):
        requeue(bus, "a")


def test_promise_16_a_limit_holds_over_all_workers(bus):
    running, most, lock, gate = [0], [0], threading.Lock(), threading.Barrier(2)

    @workflow(name="work")
    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait(PATIENCE)  # two at a time, as the limit has it
        with lock:
            running[0] -= 1

    ids = [enqueue(bus, work) for _ in range(6)]
    limits = {"default": Limits(running=2)}
    with worker(bus, queues=limits), worker(bus, queues=limits):
        for run_id in ids:
            bus.result(run_id, timeout=PATIENCE)
    assert most == [2]


def test_promise_16_a_worker_that_was_full_does_not_pause_when_it_has_room(bus, monkeypatch):
    """Changes of the store that it could not act upon count as no claim in vain."""
    module = importlib.import_module("crewbus_workers.serving")
    monkeypatch.setattr(module, "SHORTEST", 10 * PATIENCE)
    monkeypatch.setattr(module, "LONGEST", 10 * PATIENCE)

    @workflow(name="changing")
    async def change() -> None:
        loop, noticed = asyncio.get_running_loop(), asyncio.Event()
        unwatch = bus.store.watch(lambda: loop.call_soon_threadsafe(noticed.set))
        enqueue(bus, "served by nobody")
        await noticed.wait()
        for _ in range(20):  # the worker, which is notified before, has its turns
            await asyncio.sleep(0)
        unwatch()

    ids = [enqueue(bus, change) for _ in range(2)]
    with worker(bus, concurrency=1):
        for run_id in ids:
            bus.result(run_id, timeout=PATIENCE)


def test_promise_16_queues_with_the_same_limits_are_served_in_one_order(bus):
    order = []

    @workflow(name="noting")
    def note(name: str) -> None:
        order.append(name)

    names = ["one", "two", "limited", "one", "two"]
    ids = [enqueue(bus, note, name, queue=name) for name in names]
    with worker(bus, queues={"two": Limits(), "limited": Limits(running=1), "one": Limits()}, concurrency=1):
        for run_id in ids:
            bus.result(run_id, timeout=PATIENCE)
    assert [name for name in order if name != "limited"] == ["one", "two", "one", "two"]
    assert len(order) == len(names)


def test_promise_16_a_limit_per_key(bus):
    running, most, lock = {}, {}, threading.Lock()

    @workflow(name="work")
    def work(key: str) -> None:
        with lock:
            running[key] = running.get(key, 0) + 1
            most[key] = max(most.get(key, 0), running[key])
        crewbus.chunk("x")
        with lock:
            running[key] -= 1

    ids = [enqueue(bus, work, key, key=key) for key in ("a", "b") * 5]
    limits = {"default": Limits(per_key=1)}
    with worker(bus, queues=limits), worker(bus, queues=limits):
        for run_id in ids:
            bus.result(run_id, timeout=PATIENCE)
    assert most == {"a": 1, "b": 1}


def test_promise_16_leaving_a_worker_suspends_what_runs_and_another_continues_it(bus):
    reached, calls = threading.Event(), []

    @crewbus.step
    def once() -> str:
        calls.append(1)
        return "done"

    @workflow(name="work")
    async def work() -> str:
        import asyncio

        text = once()
        if len(calls) == 1 and not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return text

    run_id = enqueue(bus, work)
    with worker(bus):
        assert reached.wait(PATIENCE)
    assert bus.records.info(run_id).state == "suspended"
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == "done"
    assert calls == [1]


def test_promise_16_a_queue_that_nobody_serves_waits(bus):
    @workflow(name="work")
    def work() -> str:
        return "done"

    other = enqueue(bus, work, queue="other")
    later = enqueue(bus, work, delay=3600)
    run_id = enqueue(bus, work)
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == "done"
    found = {queue.name: (queue.waiting, queue.later, queue.running, queue.stuck) for queue in queues(bus)}
    assert found == {"default": (0, 1, 0, 0), "other": (1, 0, 0, 0)}
    assert {bus.store.info(one).epoch for one in (other, later)} == {0}


def test_promise_16_a_run_that_is_taken_over_again_and_again_is_stuck_until_it_is_requeued(bus):
    @workflow(name="work")
    def work() -> str:
        return "done"

    run_id = enqueue(bus, work)
    for _ in range(5):
        epoch = bus.store.acquire(run_id)
        bus.store.release(run_id, epoch)
    assert [queue.stuck for queue in queues(bus)] == [1]
    with worker(bus):
        other = enqueue(bus, work)
        assert bus.result(other, timeout=PATIENCE) == "done"
        assert bus.records.info(run_id).state != "finished"
        requeue(bus, run_id)
        assert bus.result(run_id, timeout=PATIENCE) == "done"


def test_promise_16_arguments_that_no_longer_fit_fail_the_run(bus):
    run_id = enqueue(bus, "work", 1, 2)

    @workflow(name="work")
    def work(only: int) -> int:
        return only

    with worker(bus), pytest.raises(crewbus.CrewbusError, match="too many positional arguments"):
        bus.result(run_id, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"concurrency": 0}, "concurrency="),
        ({"queues": "default"}, "queues="),
        ({"queues": []}, "at least one queue"),
        ({"queues": {"a": 1}}, "its limits are"),
        ({"queues": {"a": Limits(running=0)}}, "a limit is"),
    ],
)
def test_promise_16_a_worker_checks_its_options(bus, options, text):
    with pytest.raises(InputError, match=text):
        worker(bus, **options)
