"""Promise 8: work started through crewbus sees its caller's ContextVars; what it sets does not leak back."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from concurrent import futures

import pytest
from helpers import TIMEOUT, in_thread, in_threads, quiet_bus

import crewbus

tenant = contextvars.ContextVar("tenant", default="nobody")


def look(mark=None):
    """The caller's tenant and run; then set another tenant."""
    run = crewbus.current_run()
    seen = (tenant.get(), run.name if run is not None else None)
    tenant.set(mark or "intruder")
    return seen


@pytest.fixture
def scene():
    """A run and a tenant in scope."""
    token = tenant.set("acme")
    with quiet_bus() as bus, bus.run("here"):
        yield bus
        assert tenant.get() == "acme"  # nothing leaked back
    tenant.reset(token)


def test_promise_08_a_worker_thread_sees_the_callers_context_vars(scene):
    seen = []
    thread = crewbus.Thread(target=lambda: seen.append(look()))
    tenant.set("changed before start")
    thread.start()
    tenant.set("acme")
    thread.join(TIMEOUT)
    assert seen == [("changed before start", "here")]


def test_promise_08_a_thread_class_that_overrides_run(scene):
    class Worker(crewbus.Thread):
        seen = None

        def run(self):
            self.seen = look()

    worker = Worker()
    worker.start()
    worker.join(TIMEOUT)
    assert worker.seen == ("acme", "here")


def test_promise_08_a_thread_keeps_nothing_alive(scene):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    gc.disable()
    try:
        thread = crewbus.Thread(target=lambda thing: None, args=(thing,))
        thread.start()
        thread.join(TIMEOUT)
        del thing, thread
        assert gone() is None
    finally:
        gc.enable()


def test_promise_08_a_pool_sees_the_context_of_each_submit(scene):
    with crewbus.ThreadPoolExecutor(1) as pool:
        first = pool.submit(look)
        tenant.set("other")
        second = pool.submit(look, "mark")
        tenant.set("acme")
        assert first.result(TIMEOUT) == ("acme", "here")
        assert second.result(TIMEOUT) == ("other", "here")
        assert list(pool.map(look, ["a", "b"])) == [("acme", "here")] * 2


def test_promise_08_foreign_work_in_a_pool_sees_no_run(scene):
    """Work that comes to the pool's threads by the stock method finds no run."""
    with crewbus.ThreadPoolExecutor(1) as pool:
        assert pool.submit(look).result(TIMEOUT) == ("acme", "here")
        foreign = futures.ThreadPoolExecutor.submit(pool, look)
        assert foreign.result(TIMEOUT) == ("nobody", None)


def test_promise_08_bound_functions_run_where_they_were_bound(scene):
    bound = crewbus.bind(look)
    assert in_thread(bound).result(TIMEOUT) == ("acme", "here")
    assert bound() == ("acme", "here")  # and again, as if for the first time
    assert contextvars.Context().run(bound) == ("acme", "here")


def test_promise_08_calls_of_a_bound_function_may_overlap(scene):
    barrier = threading.Barrier(16)

    def meet():
        barrier.wait(TIMEOUT)
        return look()

    bound = crewbus.bind(meet)
    assert in_threads(16, lambda _: bound()) == [("acme", "here")] * 16


def test_promise_08_bound_functions_in_executors_and_tasks(scene):
    async def look_async():
        await asyncio.sleep(0)
        return look()

    async def main():
        loop = asyncio.get_running_loop()
        with scene.run("inner"):
            inner, inner_async = crewbus.bind(look), crewbus.bind(look_async)
            assert await asyncio.to_thread(look) == ("acme", "inner")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(look_async())
            assert task.result() == ("acme", "inner")
        assert await loop.run_in_executor(None, inner) == ("acme", "inner")
        assert await inner_async() == ("acme", "inner")
        assert look_async.__name__ == inner_async.__name__
        assert tenant.get() == "acme"

    asyncio.run(main())


def test_promise_08_bound_objects_with_an_async_call(scene):
    """They are as async as functions are: what they await runs where they were bound, too."""

    class Looking:
        async def __call__(self):
            await asyncio.sleep(0)
            return look()

    with scene.run("inner"):
        bound = crewbus.bind(Looking())
    assert contextvars.Context().run(asyncio.run, bound()) == ("acme", "inner")


def test_promise_08_threads_pools_and_bound_functions_nest(scene):
    """A thread that starts a pool that starts a thread: the run goes all the way."""

    def deepest():
        return look()

    def middle(results):
        with crewbus.ThreadPoolExecutor(2) as pool:
            results.append(pool.submit(lambda: in_thread(crewbus.bind(deepest)).result(TIMEOUT)).result(TIMEOUT))

    results = []
    thread = crewbus.Thread(target=middle, args=(results,))
    thread.start()
    thread.join(TIMEOUT)
    assert results == [("acme", "here")]


def test_promise_08_streams_and_handlers_carry_the_context(scene):
    seen = []

    @scene.on(crewbus.Chunk)
    async def handle(envelope):
        seen.append(look())

    with scene.stream(look) as stream:
        assert stream.result()[0] == "acme"
    scene.chunk("x")
    scene.flush(TIMEOUT)
    assert seen == [("acme", "here")]


def test_promise_08_events_of_a_worker_belong_to_the_run(scene):
    run = crewbus.current_run()
    with scene.subscribe(run.id) as stream:
        thread = crewbus.Thread(target=scene.chunk, args=("from a thread",))
        thread.start()
        thread.join(TIMEOUT)
        assert next(stream).event.text == "from a thread"


def test_promise_08_a_bare_thread_has_no_context(scene):
    """What this module is for; builds whose threads inherit it by themselves say so."""
    if getattr(sys.flags, "thread_inherit_context", False):
        pytest.skip("this build's threads inherit the context by themselves")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(look()))
    thread.start()
    thread.join(TIMEOUT)
    assert seen == [("nobody", None)]


def test_promise_08_errors_come_through(scene):
    def fail():
        raise LookupError("as it was")

    with crewbus.ThreadPoolExecutor(1) as pool, pytest.raises(LookupError, match="as it was"):
        pool.submit(fail).result(TIMEOUT)
    with pytest.raises(LookupError, match="as it was"):
        crewbus.bind(fail)()


def test_promise_08_run_in_executor_with_a_pool_of_ours(scene):
    """The loop submits on the caller's behalf, so that nothing needs to be bound."""

    async def main():
        loop = asyncio.get_running_loop()
        with crewbus.ThreadPoolExecutor(1) as pool:
            assert await loop.run_in_executor(pool, look) == ("acme", "here")
            with scene.run("inner"):
                assert await loop.run_in_executor(pool, look) == ("acme", "inner")
            assert await asyncio.gather(*(loop.run_in_executor(pool, look) for _ in range(3))) == [("acme", "here")] * 3

    asyncio.run(main())


def test_promise_08_generators_run_in_the_context_of_their_consumer(scene):
    """A run or call that a generator enters is in scope between its steps only as Python has it: until it is left."""

    def steps():
        with scene.run("generator's"):
            yield look()
            yield look()

    made = steps()
    assert next(made) == ("acme", "generator's")
    assert in_thread(crewbus.bind(lambda: next(made))).result(TIMEOUT) == ("intruder", "generator's")
    tenant.set("acme")
    made.close()
    assert crewbus.current_run().name == "here"


def test_promise_08_async_generators_in_tasks_keep_to_themselves(scene):
    async def steps(name):
        async with scene.run(name):
            for _ in range(3):
                await asyncio.sleep(0)
                yield look(name)

    async def consume(name):
        tenant.set(name)
        return [step async for step in steps(name)] + [crewbus.current_run().name]

    async def main():
        return await asyncio.gather(*(consume(f"g{i}") for i in range(8)))

    for i, found in enumerate(asyncio.run(main())):
        assert found == [(f"g{i}", f"g{i}")] * 3 + ["here"]


def test_promise_08_an_abandoned_async_generator_ends_its_run_and_leaves_no_scope(scene):
    async def steps():
        async with scene.run("abandoned"):
            yield crewbus.current_run()

    async def main():
        made = steps()
        run = await anext(made)
        await asyncio.create_task(made.aclose())  # in another context, as the loop's finaliser does
        assert run.ended

    asyncio.run(main())
    assert crewbus.current_run().name == "here"


def test_promise_08_calls_and_attempts_travel_like_runs(scene):
    seen = []
    with scene.call("gpt", callbacks=[lambda envelope: seen.append(envelope.event)]) as call, call.attempt() as attempt:

        def work():
            assert crewbus.current_call() is call
            crewbus.chunk("x")

        thread = crewbus.Thread(target=work)
        thread.start()
        thread.join(TIMEOUT)
        with crewbus.ThreadPoolExecutor(1) as pool:
            pool.submit(work).result(TIMEOUT)
        scene.submit(work).result(TIMEOUT)
        in_thread(crewbus.bind(work)).result(TIMEOUT)
        asyncio.run(asyncio.to_thread(work))
        with scene.stream(work) as stream:  # a run of its own: its events are that run's
            with pytest.raises(AssertionError):
                stream.result()
    chunks = [event for event in seen if isinstance(event, crewbus.Chunk)]
    assert chunks == [crewbus.Chunk("x")] * 5
    assert attempt.number == 1


def test_promise_08_an_async_callback_that_is_bound_may_flush(scene):
    """Whether it is a handler that is flushing is a matter of the call, not of where it was bound."""
    done = []

    async def flushes(envelope):
        await scene.aflush(TIMEOUT)
        done.append(1)

    scene.on(crewbus.Chunk, crewbus.bind(flushes))
    scene.chunk("x")
    scene.flush(TIMEOUT)
    assert done == [1]
