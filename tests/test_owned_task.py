"""Work that runs elsewhere: its outcome, its end, and what a forked child makes of it."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar, copy_context

import pytest
from helpers import TIMEOUT

from crewbus.exceptions import Cancelled
from crewbus.work.owned import OwnedTask

tenant: ContextVar[str] = ContextVar("tenant")


class Owner:
    """Makes tasks and notes how they end."""

    def __init__(self):
        self.live = set()
        self.ended = []
        self.reasons = []

    def task(self, function, *args, **kwargs):
        return OwnedTask(
            function,
            args,
            kwargs,
            live=self.live,
            on_end=lambda *outcome: self.ended.append(outcome),
            on_cancel=self.reasons.append,
        )

    def run(self, function, *args, **kwargs):
        task = self.task(function, *args, **kwargs)
        task.start(copy_context())
        assert task.wait(TIMEOUT)
        return task


@pytest.fixture
def owner():
    owner = Owner()
    yield owner
    assert not owner.live


async def returns(value):
    await asyncio.sleep(0)
    return value


@pytest.mark.parametrize("function", [lambda value: value, returns, lambda value: returns(value)])
def test_a_thread_calls_the_function_and_awaits_what_it_returns(owner, function):
    task = owner.run(function, 1)
    assert task.outcome.result == 1
    assert owner.ended == [(1, None)]
    assert task.over


def test_an_async_function_is_a_task_on_the_running_loop(owner):
    async def main():
        async def where():
            return asyncio.get_running_loop(), threading.current_thread()

        task = owner.task(where)
        task.start(copy_context())
        assert await task.wait_async(TIMEOUT)
        assert task.outcome.result == (asyncio.get_running_loop(), threading.current_thread())

    asyncio.run(main())


def test_an_error_is_the_outcome_and_its_traceback_starts_in_the_function(owner):
    def fails():
        raise LookupError("no such topic")

    error = owner.run(fails).outcome.error
    assert isinstance(error, LookupError)
    assert error.__traceback__.tb_frame.f_code is fails.__code__
    assert owner.ended == [(None, error)]


def test_an_error_of_the_owner_replaces_the_outcome():
    def rejects(result, error):
        raise ValueError(result)

    live = set()
    task = OwnedTask(int, (), {}, live=live, on_end=rejects)
    task.start(copy_context())
    assert task.wait(TIMEOUT)
    assert isinstance(task.outcome.error, ValueError)
    assert not live


def test_a_task_that_cannot_start_ends_with_the_error(owner, monkeypatch):
    def cannot_start(thread):
        raise RuntimeError("can't start new thread")

    task = owner.task(int)
    monkeypatch.setattr(threading.Thread, "start", cannot_start)
    with pytest.raises(RuntimeError, match="can't start"):
        task.start(copy_context())
    assert task.over
    assert [str(error) for _, error in owner.ended] == ["can't start new thread"]


def test_the_function_runs_in_the_given_context(owner):
    tenant.set("acme")
    task = owner.task(tenant.get)
    context = copy_context()
    tenant.set("other")
    task.start(context)
    assert task.wait(TIMEOUT)
    assert task.outcome.result == "acme"


def test_cancelling_is_up_to_the_owner(owner):
    gate = threading.Event()
    task = owner.task(gate.wait, TIMEOUT)
    task.start(copy_context())
    task.cancel("enough")
    assert owner.reasons == ["enough"]
    gate.set()
    assert task.wait(TIMEOUT)
    assert owner.ended == [(True, None)]


def test_an_asyncio_task_that_is_cancelled_before_its_first_step_ends_too(owner):
    async def main():
        task = owner.task(asyncio.Event().wait)
        task.start(copy_context())
        for other in asyncio.all_tasks() - {asyncio.current_task()}:
            other.cancel()
        assert await task.wait_async(TIMEOUT)
        return task.outcome.error

    assert isinstance(asyncio.run(main()), Cancelled)


def test_waiting_has_a_limit(owner):
    gate = threading.Event()
    task = owner.task(gate.wait, TIMEOUT)
    task.start(copy_context())
    assert not task.wait(0)
    assert not asyncio.run(task.wait_async(0))
    assert task.outcome is None
    gate.set()
    assert task.wait(TIMEOUT)


def test_a_task_knows_its_own_thread(owner):
    task = owner.task(lambda: task.is_here())
    task.start(copy_context())
    assert task.wait(TIMEOUT)
    assert task.outcome.result is True
    assert not task.is_here()


def test_a_forked_child_sees_an_unfinished_task_as_cancelled(owner):
    started, gate = threading.Event(), threading.Event()
    task = owner.task(lambda: started.set() or gate.wait(TIMEOUT))
    task.start(copy_context())
    assert started.wait(TIMEOUT)
    thread = task._thread
    task.after_fork()
    assert task.over
    assert isinstance(task.outcome.error, Cancelled)
    gate.set()
    thread.join(TIMEOUT)
