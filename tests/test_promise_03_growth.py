"""Promise 3: what a run costs does not grow with what went before it, nor with its depth."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest

import crewbus


@pytest.mark.parametrize("depth", [1, 40])
def test_promise_03_the_identity_of_a_step_does_not_grow_with_the_runs_around_it(depth: int) -> None:
    """It is as long at any depth, and making it takes no more than the one around it."""
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording()
        with ExitStack() as stack:
            runs = [stack.enter_context(bus.run(f"level {level}")) for level in range(depth)]
            assert runs[-1].step("step", lambda: depth) == depth
        record = bus.record_of(runs[0].id)
        (started,) = [one.event for one in record if isinstance(one.event, crewbus.StepStarted)]
        assert len(started.identity) < 32


def test_promise_03_a_cancelled_nested_run_does_not_slow_its_tree_once_it_has_ended() -> None:
    """The runs around it take no lock again, also if another run inside it ends later."""
    with crewbus.Bus(entry_points=False) as bus, bus.run() as root:
        with suppress(crewbus.RunCancelledError), bus.run() as nested:
            inner = bus.run()
            inner.start()
            nested.cancel()
        assert not root.tree.free
        inner.finish()
        assert root.tree.free
        assert root.tree.cancelled == {}
