"""Promise 8: the ContextVars that a workflow or a plugin names travel with a queued run, and no others."""

from __future__ import annotations

import logging
import threading
from contextvars import ContextVar, copy_context

import pytest
from workers_helpers import PATIENCE, events_of

import crewbus
from crewbus import InputError, UnserializableError
from crewbus_workers import enqueue, plugin, receive, send, worker, workflow
from crewbus_workers.carrying import LARGEST

tenant = ContextVar("tenant")
locale = ContextVar("locale", default="en")
secret = ContextVar("secret", default="unset")


def queued_with(values, *args, **kwargs):
    """Enqueue in a context in which these variables are set."""

    def queue():
        for variable, value in values.items():
            variable.set(value)
        return enqueue(*args, **kwargs)

    return copy_context().run(queue)


def seen():
    return [tenant.get(None), locale.get(), secret.get()]


def test_promise_08_named_variables_travel_with_a_queued_run(bus):
    @workflow(name="sync", carry=[tenant, locale])
    def work() -> list:
        return seen()

    @workflow(name="async", carry=[tenant, locale])
    async def awork() -> list:
        return seen()

    for name in ("sync", "async"):
        ids = [queued_with({tenant: {"id": number, "roles": ["a"]}, secret: "x"}, bus, name) for number in range(3)]
        with worker(bus):
            found = [bus.result(run_id, timeout=PATIENCE) for run_id in ids]
        assert found == [[{"id": number, "roles": ["a"]}, "en", "unset"] for number in range(3)]
    assert seen() == [None, "en", "unset"]


def test_promise_08_they_are_set_again_when_another_worker_continues_the_run(bus):
    begun, waits = [], threading.Event()

    @workflow(name="waits", carry=[tenant])
    def work() -> list:
        begun.append(seen())
        waits.set()
        tenant.set("changed")
        return [seen()[0], receive("mail", timeout=PATIENCE)]

    run_id = queued_with({tenant: "seven"}, bus, work)
    with worker(bus):
        assert waits.wait(PATIENCE)
    send(bus, run_id, "mail", 1)
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == ["changed", 1]
    assert len(begun) == 2
    assert {found[0] for found in begun} == {"seven"}


def test_promise_08_they_travel_on_with_what_a_workflow_queues(bus):
    @workflow(name="inner", carry=[tenant])
    def inner() -> list:
        return seen()

    @workflow(name="outer", carry=[tenant])
    def outer() -> str:
        return enqueue(bus, inner)

    run_id = queued_with({tenant: "seven", locale: "de"}, bus, outer)
    with worker(bus):
        assert bus.result(bus.result(run_id, timeout=PATIENCE), timeout=PATIENCE) == ["seven", "en", "unset"]


def test_promise_08_what_a_run_sets_does_not_reach_the_next_one(bus):
    @workflow(name="sets", carry=[tenant])
    def work() -> list:
        before = seen()
        tenant.set("left behind")
        return before

    ids = [enqueue(bus, work) for _ in range(4)]
    with worker(bus, concurrency=1):
        assert [bus.result(run_id, timeout=PATIENCE)[0] for run_id in ids] == [None] * 4


@pytest.mark.parametrize("value", [object(), {1: 2}, float("nan"), (1, 2), b"x", crewbus.Retracted(1, "x"), "\udcff"])
def test_promise_08_a_value_that_is_not_plain_json_is_rejected_by_name(bus, value):
    @workflow(name="carries", carry=[tenant])
    def work() -> None:
        pass

    with pytest.raises(UnserializableError, match="'tenant' that carries@1 carries"):
        queued_with({tenant: value}, bus, work)
    assert bus.store.roots() == []


def test_promise_08_the_size_of_all_is_limited(bus):
    @workflow(name="carries", carry=[tenant, locale])
    def work() -> int:
        return len(tenant.get()) + len(locale.get())

    half = LARGEST // 2 - 2
    run_id = queued_with({tenant: "x" * half, locale: "x" * half}, bus, work)
    with pytest.raises(InputError, match=f"the largest is 'locale' with {half + 3}"):
        queued_with({tenant: "x" * half, locale: "x" * half + "y"}, bus, work)
    with worker(bus):
        assert bus.result(run_id, timeout=PATIENCE) == 2 * half


@pytest.mark.parametrize("carry", ["tenant", ["tenant"], tenant, None, [tenant, ContextVar("tenant")]])
def test_promise_08_only_variables_of_different_names_can_be_carried(carry):
    with pytest.raises(InputError, match="ContextVars"):
        workflow(name="carries", carry=carry)


class Tenants:
    @crewbus.hookimpl(optionalhook=True)
    def crewbus_carry(self, bus):
        return [tenant]


def test_promise_08_a_plugin_names_variables_for_every_workflow(bus):
    @workflow(name="any", carry=[tenant])
    def any_workflow() -> list:
        return seen()

    bus.plugins.register(Tenants())
    bus.plugins.register(plugin)
    for name in ("any", "any@"):  # also for one that this process does not know
        run_id = queued_with({tenant: "seven"}, bus, name.strip("@"), version=1)
        with worker(bus):
            assert bus.result(run_id, timeout=PATIENCE)[0] == "seven"


def test_promise_08_a_worker_logs_what_it_does_not_know(bus, caplog):
    @workflow(name="plain")
    def work() -> list:
        return seen()

    tenants = Tenants()
    bus.plugins.register(tenants)
    run_id = queued_with({tenant: "seven"}, bus, work)
    bus.plugins.unregister(tenants)
    with caplog.at_level(logging.WARNING, "crewbus.workers"), worker(bus):
        assert bus.result(run_id, timeout=PATIENCE)[0] is None
    assert "carries the ContextVar 'tenant', which is not carried here" in caplog.text


def test_promise_08_records_of_runs_that_carry_nothing_stay_as_they_were(bus):
    @workflow(name="plain")
    def work() -> None:
        pass

    run_id = enqueue(bus, work)
    assert events_of(bus, run_id) == ["RunStarted", "Enqueued"]
    assert bus.recording.decode(bus.store.event(run_id, 1)).event.carried == {}
