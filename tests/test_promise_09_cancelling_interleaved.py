"""Promise 9, cancelling, with the threads switched at each line between a check and the action based on it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from helpers import quiet_bus
from interleave import explore

from crewbus import Cancelled, RunCancelled, RunCancelledError
from crewbus.bus.live_runs import LiveRuns
from crewbus.scopes.run import Run
from crewbus.scopes.stopping import mark_in_tree, notify
from crewbus.scopes.thread_state import ThreadState

SWITCHES = [1, pytest.param(2, marks=pytest.mark.long)]


def notifications(run):
    """How often three calls of this thread are notified."""
    count = 0
    for _ in range(3):
        try:
            run.check()
        except Cancelled:
            count += 1
    return count


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_09_threads_that_claim_one_cancellation(switches):
    @contextmanager
    def scenario():
        counts = []
        with quiet_bus() as bus, bus.run() as run:
            run.cancel("enough")
            yield lambda: counts.append(notifications(run)), lambda: counts.append(notifications(run))
            assert counts == [1, 1]

    assert explore(scenario, [Run.check, notify, ThreadState.claim], switches) > 10


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_09_two_cancellers(switches):
    @contextmanager
    def scenario():
        with quiet_bus() as bus, bus.run() as run:
            yield lambda: run.cancel("one"), lambda: run.cancel("other")
            assert run.stop_reason in ("one", "other")
            assert notifications(run) == 1

    assert explore(scenario, [Run.cancel, Run.mark_stopped, mark_in_tree], switches) > 5


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_09_a_cancellation_and_the_start_of_its_run(switches):
    @contextmanager
    def scenario():
        with quiet_bus() as bus:
            run, refused = bus.run(), []

            def start():
                try:
                    run.start()
                except (RunCancelledError, Cancelled) as error:
                    refused.append(error)

            yield start, lambda: run.cancel("enough")
            assert run.stop_reason == "enough"
            if run.state == "running":
                assert notifications(run) == 1
                run.finish()
            else:
                assert refused
            assert run.state in ("cancelled", "failed")
            assert not run.tree.stopped

    functions = [Run.start, Run._begin, Run.cancel, Run.mark_stopped, mark_in_tree]
    assert explore(scenario, functions, switches) > 5


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_09_a_cancellation_and_the_end_of_its_run(switches):
    @contextmanager
    def scenario():
        with quiet_bus() as bus:
            run = bus.run()
            stream = bus.subscribe(run.id)
            run.start()
            yield lambda: run.cancel("enough"), run.finish
            last = list(stream)[-1].event
            assert (run.state == "cancelled") == (last == RunCancelled("enough"))
            assert not run.tree.stopped

    functions = [Run.cancel, Run.mark_stopped, mark_in_tree, Run.retire, LiveRuns.finish]
    assert explore(scenario, functions, switches) > 5
